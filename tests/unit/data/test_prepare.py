"""Prepared folders: what goes where, what is refused, and what an interruption leaves."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gptwo.base.errors import DataError, StorageError, TokenizerError
from gptwo.data import PrepareProgress, TokenData, load_index, prepare, split_text
from gptwo.data.split import SplitRule
from gptwo.data.staging import StagedFolder
from gptwo.data.survey import Piece, Sample, text_hash
from gptwo.tokenizer import EOT, Tokenizer, build_byte


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    file = tmp_path / "novel.txt"
    chapters = [f"Chapter {n}.\r\nIt was a dark and stormy night — số {n}.\n" for n in range(999)]
    file.write_bytes("".join(chapters).encode())
    return file


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03d}.txt").write_text(
            f"Document {number} says {number * number}. " * (1 + number % 7)
        )
    return folder


def documents(folder: Path, split: str) -> list[bytes]:
    """The documents of a split of byte tokens, each without its <|endoftext|>."""
    data = TokenData.open(folder, split)  # type: ignore[arg-type]
    ids = data.read(0, data.tokens)
    assert ids[-1] == 256
    return [bytes(part[part < 256].tolist()) for part in np.split(ids, np.flatnonzero(ids == 256) + 1)[:-1]]


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe", "gpt2"])
@pytest.mark.parametrize("fraction", [0.1, 0.25])
def test_one_document_is_split_by_position_to_the_character(
    tokenizer: str, fraction: float, novel: Path, tmp_path: Path
) -> None:
    text = novel.read_bytes().decode()
    index = prepare([str(novel)], tokenizer=tokenizer, out=tmp_path / "out", val_fraction=fraction)
    boundary = int(len(text) * (1 - fraction))
    chosen = Tokenizer.load(tmp_path / "out")
    assert index.split_by == "position"
    for split, part in (("train", text[:boundary]), ("val", text[boundary:])):
        data = TokenData.open(tmp_path / "out", split)  # type: ignore[arg-type]
        assert data.read(0, data.tokens).tolist() == chosen.encode(part)
        assert split_text(index, split) == part.encode()  # type: ignore[arg-type]
        assert (data.bytes, index.splits[split].documents) == (len(part.encode()), 1)  # type: ignore[index]


def test_many_documents_are_split_by_hash_and_each_is_followed_by_the_end_token(
    shelf: Path, tmp_path: Path
) -> None:
    index = prepare([str(shelf)], tokenizer="byte", out=tmp_path / "out")
    train, val = documents(tmp_path / "out", "train"), documents(tmp_path / "out", "val")
    assert Counter(train + val) == Counter(file.read_bytes() for file in shelf.iterdir())
    assert train == sorted(train, key=lambda text: int(text.split()[1]))
    assert index.split_by == "hash"
    assert (index.splits["train"].documents, index.splits["val"].documents) == (len(train), len(val))
    assert 5 <= len(val) <= 40


def test_adding_files_moves_none_of_the_old_ones(shelf: Path, tmp_path: Path) -> None:
    prepare([str(shelf)], tokenizer="byte", out=tmp_path / "before")
    before = {split: set(documents(tmp_path / "before", split)) for split in ("train", "val")}
    for number in range(50):
        (shelf / f"0{number}-new.md").write_text(f"New {number}")
    prepare([str(shelf), str(shelf / "000.txt")], tokenizer="byte", out=tmp_path / "after")
    for split in ("train", "val"):
        assert before[split] < set(documents(tmp_path / "after", split))


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_split_is_empty_by_chance(fraction: float, shelf: Path, tmp_path: Path) -> None:
    prepare([str(shelf)], tokenizer="byte", out=tmp_path / "out", val_fraction=fraction)
    texts = {split: documents(tmp_path / "out", split) for split in ("train", "val")}
    alone = "val" if fraction < 0.5 else "train"
    assert (len(texts[alone]), sum(map(len, texts.values()))) == (1, 200)
    extreme = min if alone == "val" else max
    every = [text.decode() for split in texts.values() for text in split]
    assert texts[alone] == [extreme(every, key=text_hash).encode()]


def test_without_validation_all_is_for_training(shelf: Path, novel: Path, tmp_path: Path) -> None:
    for number, source in enumerate((shelf, novel)):
        index = prepare([str(source)], tokenizer="byte", out=tmp_path / str(number), val_fraction=0)
        assert index.splits["val"].tokens == 0
        assert split_text(index, "val") == b""
        with pytest.raises(DataError, match="has no val tokens"):
            TokenData.open(tmp_path / str(number), "val")


def test_the_end_token_in_a_text_stays_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": f"x{EOT}y"}) + '\n{"text": "z"}\n')
    prepare([str(tmp_path / "a.jsonl")], tokenizer="byte", out=tmp_path / "out", val_fraction=0)
    assert documents(tmp_path / "out", "train") == [f"x{EOT}y".encode(), b"z"]


def test_the_index_says_what_is_there(shelf: Path, tmp_path: Path) -> None:
    (shelf / "empty.txt").touch()
    (shelf / "picture.bin").write_bytes(b"\0\1")
    (shelf / ".hidden").write_text("no")
    out = tmp_path / "out"
    index = prepare([str(shelf)], tokenizer="bpe", vocab_size=300, out=out, shard_tokens=1000)
    assert load_index(out) == index
    content = json.loads((out / "index.json").read_text())
    assert content["format"] == "gptwo-data"
    assert content["skipped"] == {"binary": 1, "hidden": 1, "empty": 1}
    assert content["tokenizer"]["sha256"] == hashlib.sha256((out / "tokenizer.json").read_bytes()).hexdigest()
    assert content["tokenizer"]["vocab_size"] == Tokenizer.load(out).vocab_size <= 300
    assert content["tokenizer"]["trained_on_bytes"] == content["splits"]["train"]["bytes"]
    named = {"index.json", "tokenizer.json", "tokenizer_config.json"}
    for split in content["splits"].values():
        assert split["tokens"] == sum(shard["tokens"] for shard in split["shards"])
        for shard in split["shards"]:
            raw = (out / shard["file"]).read_bytes()
            assert len(raw) == 2 * shard["tokens"] <= 2000
            assert hashlib.sha256(raw).hexdigest() == shard["sha256"]
            named.add(shard["file"])
    assert {file.name for file in out.iterdir()} == named
    assert not list(tmp_path.glob(".out*"))


def test_large_vocabularies_take_four_bytes(novel: Path, tmp_path: Path) -> None:
    backend = build_byte().backend
    backend.add_tokens([f"<extra {number}>" for number in range(70_000)])
    Tokenizer(backend).save(tmp_path / "large")
    index = prepare([str(novel)], tokenizer=str(tmp_path / "large"), out=tmp_path / "out")
    assert index.dtype == "uint32"
    assert split_text(index, "train") + split_text(index, "val") == novel.read_bytes()


def test_preparing_twice_gives_the_same_files(shelf: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        prepare([str(shelf)], tokenizer="bpe", vocab_size=400, out=tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_standard_input_is_one_document(tokenizer: str, novel: Path, tmp_path: Path) -> None:
    with novel.open("rb") as stdin:
        index = prepare(["-"], tokenizer=tokenizer, out=tmp_path / "piped", stdin=stdin)
    from_file = prepare([str(novel)], tokenizer=tokenizer, out=tmp_path / "file")
    assert index.splits == from_file.splits
    assert not (tmp_path / "piped" / "standard-input").exists()
    with pytest.raises(DataError, match="-: no text in it"):
        prepare(["-"], tokenizer="byte", out=tmp_path / "none", stdin=io.BytesIO(b""))


def test_progress_counts_up_to_the_whole(shelf: Path, tmp_path: Path) -> None:
    seen: list[PrepareProgress] = []
    index = prepare([str(shelf)], tokenizer="char", out=tmp_path / "out", progress=seen.append)
    assert [step.stage for step in seen] == ["reading", "tokenizer", "writing"]
    last = seen[-1]
    assert last.bytes_done == last.bytes_total == sum(split.bytes for split in index.splits.values())
    assert (last.documents, seen[0].bytes_total) == (200, None)
    # The last end token is written after the last batch is reported.
    assert last.tokens == sum(split.tokens for split in index.splits.values()) - 1


def test_a_sample_is_bounded_and_does_not_depend_on_the_order() -> None:
    pieces = [Piece(n, 0, f"piece {n} " * 10, n, 100) for n in range(1000)]
    rule = SplitRule(by="hash", val_fraction=0.0)
    samples = []
    for order in (pieces, pieces[::-1]):
        sample = Sample(limit_bytes=20_000)
        for piece in order:
            sample.add(piece)
        samples.append(sample.training_texts(rule))
    assert samples[0] == samples[1]
    assert 50 < len(samples[0]) <= 200
    # Each piece adds one distinct number of one to three bytes.
    assert len(sample.training_texts(rule, word_bytes=35)) in range(9, 20)
    validated = SplitRule(by="hash", val_fraction=0.999999999)
    assert sample.training_texts(SplitRule(by="position", val_fraction=0.5, boundary=7))[0].startswith(
        "piece"
    )
    assert sample.training_texts(validated) == []


def test_mistakes_are_one_line_and_leave_nothing(novel: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"fine " * 1000 + b"\xff")
    (tmp_path / "short.txt").write_text("a")
    (tmp_path / "surrogate.jsonl").write_text('{"text": "ab\\ud800"}\n')
    no_end = build_byte().backend.to_str().replace(EOT, "<end>")
    (tmp_path / "no_end.json").write_text(no_end)
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    for source, tokenizer, kind, message in (
        (bad, "byte", DataError, "byte 0xff at offset 5000 is not UTF-8"),
        (tmp_path / "none", "byte", DataError, "there is no file or folder"),
        (tmp_path / "empty", "byte", DataError, "no text in it"),
        (tmp_path / "short.txt", "byte", DataError, "has 1 characters"),
        (
            tmp_path / "surrogate.jsonl",
            "byte",
            DataError,
            r"surrogate.jsonl:1: character 2 is the lone surrogate",
        ),
        (novel, "nothing", TokenizerError, "there is no tokenizer 'nothing'"),
        (tmp_path, str(tmp_path / "no_end.json"), DataError, "bad.txt"),
    ):
        with pytest.raises(kind, match=message) as caught:
            prepare([str(source)], tokenizer=tokenizer, out=out)
        assert "\n" not in str(caught.value)
        assert not out.exists()
        assert not list(tmp_path.glob(".out*"))
    with pytest.raises(TokenizerError, match="to put between 2 documents"):
        prepare([str(novel), str(novel)], tokenizer=str(tmp_path / "no_end.json"), out=out)
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(DataError, match="expected 0 <= val_fraction < 1"):
            prepare([str(novel)], tokenizer="byte", out=out, val_fraction=wrong)


def test_a_text_that_changes_while_it_is_read_is_noticed(novel: Path, tmp_path: Path) -> None:
    def change(step: PrepareProgress) -> None:
        if step.stage == "tokenizer":
            novel.write_bytes(novel.read_bytes() + b"more")

    with pytest.raises(DataError, match="changed while it was read"):
        prepare([str(novel)], tokenizer="byte", out=tmp_path / "out", progress=change)
    assert not (tmp_path / "out").exists()


def test_only_prepared_data_is_replaced_and_only_by_force(novel: Path, shelf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare([str(novel)], tokenizer="byte", out=out)
    with pytest.raises(DataError, match="is not empty; choose another folder, or give --force"):
        prepare([str(shelf)], tokenizer="byte", out=out)
    assert load_index(out).split_by == "position"
    prepare([str(shelf)], tokenizer="byte", out=out, force=True)
    assert load_index(out).split_by == "hash"
    with pytest.raises(DataError, match="is not empty"):
        prepare([str(novel)], tokenizer="byte", out=shelf, force=True)
    assert len(list(shelf.iterdir())) == 200
    with pytest.raises(DataError, match="is a file; expected a folder"):
        prepare([str(novel)], tokenizer="byte", out=novel, force=True)
    (tmp_path / "fresh").mkdir()
    prepare([str(novel)], tokenizer="byte", out=tmp_path / "fresh")
    # Earlier output in a folder that is read again is not text.
    prepare([str(tmp_path)], tokenizer="byte", out=tmp_path / "fresh", force=True)


@pytest.mark.parametrize("when", ["reading", "tokenizer", "writing"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_what_was_there(
    when: str, error: type[BaseException], novel: Path, tmp_path: Path
) -> None:
    def interrupt(step: PrepareProgress) -> None:
        if step.stage == when:
            raise error

    out = tmp_path / "out"
    with pytest.raises(error):
        prepare([str(novel)], tokenizer="byte", out=out, progress=interrupt)
    assert not out.exists()
    prepare([str(novel)], tokenizer="byte", out=out)
    before = (out / "index.json").read_bytes()
    with pytest.raises(error):
        prepare([str(novel)], tokenizer="bpe", out=out, progress=interrupt, force=True)
    assert (out / "index.json").read_bytes() == before
    assert not list(tmp_path.glob(".out*"))


def test_a_kill_leaves_nothing_that_looks_finished_and_the_next_run_cleans_up(
    novel: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, time; from pathlib import Path; from gptwo.data import prepare\n"
        "def stop(step):\n"
        "    if step.stage == 'writing': print('here', flush=True); time.sleep(60)\n"
        f"prepare([{str(novel)!r}], tokenizer='byte', out=Path({str(tmp_path / 'out')!r}), progress=stop)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        with pytest.raises(DataError, match="another process is preparing"):
            prepare([str(novel)], tokenizer="byte", out=tmp_path / "out")
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.preparing" / "train-00000.bin").exists()
    prepare([str(novel)], tokenizer="byte", out=tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))
    assert load_index(tmp_path / "out").splits["train"].tokens > 0


def test_a_kill_between_the_two_renames_is_mended(novel: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare([str(novel)], tokenizer="byte", out=out)
    os.rename(out, tmp_path / ".out.replaced")
    with StagedFolder(out, replaceable=lambda _: True):
        assert load_index(out).tokenizer.kind == "byte"
    assert not list(tmp_path.glob(".out*"))


@pytest.fixture
def full_disk(novel: Path) -> Iterator[None]:
    """Files may not grow beyond 16 KiB: what a full disk does, as far as a program sees. The novel is there before."""
    assert novel.stat().st_size > 1 << 14
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_one_line_and_leaves_nothing(novel: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*out: .*; nothing was left there") as caught:
        prepare(["-"], tokenizer="byte", out=tmp_path / "out", stdin=io.BytesIO(b"text " * 20_000))
    assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match="cannot write"):
        prepare([str(novel)], tokenizer="byte", out=tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["novel.txt"]


def test_no_more_memory_for_more_text(tmp_path: Path) -> None:
    code = (
        "import sys, resource; from pathlib import Path; from gptwo.data import prepare\n"
        "index = prepare([sys.argv[1]], tokenizer='gpt2', out=Path(sys.argv[2]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    peaks_mib = []
    for size in (2, 12):
        file = tmp_path / f"{size}.txt"
        file.write_text("".join(f"line {number} of many\n" for number in range(size * 50_000)))
        done = subprocess.run(
            [sys.executable, "-c", code, str(file), str(tmp_path / f"out{size}")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks_mib.append(int(done.stdout))
    assert peaks_mib[1] < peaks_mib[0] + 60
