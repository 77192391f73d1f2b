"""``gptwo demo``, at a size that trains in a blink."""

from __future__ import annotations

import io
import shlex
import sysconfig
from pathlib import Path

import pytest
from rich.console import Console

from command import command, done
from gptwo import demo
from gptwo.base.errors import DataError
from gptwo.config import PRESETS, GPT2Config
from gptwo.demo import DemoResult, run_demo, standard_library_files

SMALL = GPT2Config(n_layer=1, n_head=2, n_embd=16, context=16, vocab_size=512, dropout=0.0)
VIETNAMESE = "Mỗi ngày tôi đọc một trang sách; mỗi đêm tôi viết một trang thư gửi về quê nhà. "
ENGLISH = "The quick brown fox jumps over the lazy dog; the dog sleeps on, and dreams of foxes. "


@pytest.fixture(autouse=True)
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "micro", SMALL)
    monkeypatch.setattr(demo, "_SHAPE", SMALL)
    monkeypatch.setattr(demo, "_BATCH_TOKENS", 64)
    monkeypatch.setattr(demo, "_command_name", lambda: "gptwo")


@pytest.fixture
def english(tmp_path: Path) -> Path:
    file = tmp_path / "mine.txt"
    file.write_text(ENGLISH * 60, encoding="utf-8")
    return file


def demonstrate(text: Path, out: Path, *, minutes: float = 0.003, seed: int = 0) -> tuple[DemoResult, str]:
    shown = io.StringIO()
    result = run_demo(
        text=str(text),
        out=out,
        minutes=minutes,
        seed=seed,
        device="cpu",
        console=Console(file=shown, width=200),
    )
    return result, shown.getvalue()


def test_it_learns_and_says_what_it_made(english: Path, tmp_path: Path) -> None:
    result, shown = demonstrate(english, tmp_path / "run")
    assert (result.run, result.data) == (tmp_path / "run", tmp_path / "run" / "data")
    assert result.checkpoint.parent.parent == result.run
    assert result.steps >= 10
    assert result.prompt == "The"
    assert result.sample.startswith("The")
    assert result.evaluation.bytes == pytest.approx(0.1 * len(ENGLISH) * 60, rel=0.02)
    assert {path.name for path in result.run.iterdir()} >= {"data", "checkpoints", "loss.png", "samples.txt"}
    assert f"{len(ENGLISH) * 60:,} bytes of text from {english}" in shown
    assert "validation loss" in shown

    summary = result.summary()
    assert (
        f"A GPT-2 of {result.parameters:,} parameters learned from {english} in {result.steps} steps."
        in summary
    )
    for name, nats in (
        ("this model", result.evaluation.nats_per_byte),
        ("lzma", result.baselines.lzma),
        ("zlib", result.baselines.zlib),
        ("bigram of bytes", result.baselines.bigram),
    ):
        assert f"  {name:16} {nats:.3f}\n" in summary
    assert str(result.checkpoint) in summary
    assert summary.startswith(result.sample)


def test_the_baselines_are_those_of_the_validation_text(english: Path, tmp_path: Path) -> None:
    result, _ = demonstrate(english, tmp_path / "run")
    text = (ENGLISH * 60).encode()
    validation = text[-round(len(text) * 0.1) :]
    from gptwo.train.baselines import bigram_nats_per_byte, zlib_nats_per_byte

    assert result.baselines.bigram == pytest.approx(
        bigram_nats_per_byte(text[: -len(validation)], validation), rel=0.02
    )
    assert result.baselines.zlib == pytest.approx(zlib_nats_per_byte(validation), rel=0.05)


@pytest.mark.parametrize("name", ["run", "my own run"])
def test_the_commands_to_try_can_be_typed(
    name: str, english: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result, _ = demonstrate(english, Path(name))
    generate, train, serve = (shlex.split(line) for line in result.summary().splitlines()[-3:])
    assert (generate[:2], train[:2]) == (["gptwo", "generate"], ["gptwo", "train"])
    assert serve == ["gptwo", "serve", name]
    assert done(*generate[1:], "--max-new-tokens", 4).out.startswith(result.prompt)
    done(*train[1:], "--steps", 1, "--batch-tokens", 64, "--sample-tokens", 0)
    assert (tmp_path / "runs" / "longer" / "checkpoints" / "step-00000001").is_dir()


def test_nothing_is_overwritten(english: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    first, _ = demonstrate(english, out)
    assert first.run == out, "an empty folder is as good as none"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    second, _ = demonstrate(english, out)
    (tmp_path / "run-3").write_text("a file", encoding="utf-8")
    third, _ = demonstrate(english, out)
    assert [second.run.name, third.run.name] == ["run-2", "run-4"]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_folder_of_vietnamese_texts(tmp_path: Path) -> None:
    folder = tmp_path / "truyện [bold]"
    (folder / "phần hai").mkdir(parents=True)
    for number in range(8):
        place = folder / ("phần hai" if number % 2 else "") / f"{number}.txt"
        place.write_text(f"Chương {number}. " + VIETNAMESE * 12, encoding="utf-8")
    result, shown = demonstrate(folder, tmp_path / "run")
    assert result.source == str(folder)
    assert f"bytes of text from {folder}" in shown, "brackets are no markup"
    assert result.prompt == "Chương"
    assert result.sample.startswith("Chương")
    assert 0 < result.evaluation.nats_per_byte < 6


def test_a_text_that_begins_like_a_flag(tmp_path: Path) -> None:
    (tmp_path / "list.md").write_text("- --first thing\n- second thing\n" * 100, encoding="utf-8")
    result, _ = demonstrate(tmp_path / "list.md", tmp_path / "run")
    assert result.prompt == "thing"


def test_too_little_text_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "little.txt").write_text("just a few words", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"the text has \d+ tokens to learn from; expected at least 17: give more"
    ):
        demonstrate(tmp_path / "little.txt", tmp_path / "run")


def test_the_same_seed_makes_the_same_model(
    english: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_seconds_per_step", lambda *_: 0.01)  # as many steps each time
    runs = [demonstrate(english, tmp_path / str(n), seed=seed)[0] for n, seed in enumerate((3, 3, 4))]
    assert runs[0].sample == runs[1].sample
    weights = [(run.checkpoint / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


@pytest.mark.parametrize(("seconds_per_step", "steps"), [(0.01, 18), (1.0, 10), (1e-9, "passes")])
def test_steps_follow_from_speed_and_text(
    seconds_per_step: float,
    steps: int | str,
    english: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "_seconds_per_step", lambda *_: seconds_per_step)
    result, shown = demonstrate(english, tmp_path / "run", minutes=0.003)
    if steps == "passes":
        tokens = int(shown.split(" tokens of text")[0].rsplit(" ", 1)[1].replace(",", ""))
        assert result.steps == demo._MOST_PASSES * tokens // 64
    else:
        assert result.steps == steps


def test_a_signal_in_the_demo_says_how_to_go_on(
    english: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    monkeypatch.setattr(demo, "_seconds_per_step", lambda *_: 0.001)
    real = demo.TerminalObserver.stepped

    def stepped(self: demo.TerminalObserver, report: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(self, report)  # type: ignore[arg-type]

    monkeypatch.setattr(demo.TerminalObserver, "stepped", stepped)
    out = tmp_path / "my run"
    outcome = command("demo", "--text", english, "--out", out, "--minutes", 0.003)
    assert outcome.code == 130
    assert outcome.out == ""
    *_, advice, last = outcome.err.splitlines()
    assert last == "interrupted"
    _, _, to_type = advice.partition("go on with: ")
    monkeypatch.undo()
    monkeypatch.setitem(PRESETS, "micro", SMALL)
    assert shlex.split(to_type) == ["gptwo", "train", "--out", str(out), "--resume"]
    done(*shlex.split(to_type)[1:])


# --- the text that every machine has ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return standard_library_files()


def test_the_standard_library_is_found_in_a_fixed_order(files: list[Path]) -> None:
    root = Path(sysconfig.get_path("stdlib"))
    names = [path.relative_to(root).as_posix() for path in files]
    assert names == sorted(set(names)), "by name, whatever the file system's order"
    assert files == standard_library_files()
    for name in ("ast.py", "json/decoder.py", "asyncio/events.py", "typing.py"):
        assert name in names
    assert len(files) > 300


def test_tests_and_installed_packages_are_left_out(files: list[Path]) -> None:
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    for path in files:
        assert not left_out & set(path.relative_to(root).parts), path
        assert path.suffix in {".py", ".rst", ".txt"}
        assert path.stat().st_size > 0


def test_odd_files_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {
        "b.py": b"b",
        "a/z.py": b"z",
        "a.py": b"a",
        "a/test/x.py": b"x",
        "site-packages/torch.py": b"t",
        "latin.py": b"# \xe9",
        "empty.py": b"",
        "data.bin": b"d",
        "notes.txt": "ữ".encode(),
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    names = [path.relative_to(tmp_path).as_posix() for path in standard_library_files()]
    assert names == ["a.py", "a/z.py", "b.py", "notes.txt"]
