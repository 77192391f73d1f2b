"""A saved tokenizer is one that transformers loads: equal ids, equal text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gptwo.tokenizer import EOT, Tokenizer
from tokenizer_cases import KINDS, TEXT, tokenizer

GPT2_CONFIG = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257}


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_again_it_is_the_same(kind: str, tmp_path: Path) -> None:
    saved = tokenizer(kind)
    files = saved.save(tmp_path)
    assert sorted(file.name for file in files) == ["tokenizer.json", "tokenizer_config.json"]
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.kind, loaded.vocab_size, loaded.eot_id) == (kind, saved.vocab_size, saved.eot_id)
    assert loaded.sha256 == saved.sha256
    assert loaded.encode(TEXT) == saved.encode(TEXT)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_gives_equal_ids_and_text(kind: str, tmp_path: Path) -> None:
    ours = tokenizer(kind)
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(GPT2_CONFIG))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in (
        *TEXT.replace(EOT, "").splitlines(keepends=True),
        TEXT.replace(EOT, ""),
        " hello .  world , it 's",
    ):
        if kind == "char":
            text = "".join(character for character in text if character in TEXT)  # noqa: PLW2901
        ids = ours.encode(text)
        assert theirs.encode(text) == ids
        assert theirs.decode(ids) == ours.decode(ids)
    assert theirs.encode(TEXT) == ours.encode(TEXT, allow_special=True)
    assert theirs.eos_token_id == theirs.bos_token_id == ours.eot_id
    assert theirs.decode([ours.eot_id], skip_special_tokens=True) == ""
    assert theirs.decode([ours.eot_id]) == ours.decode([ours.eot_id or 0])
    assert len(theirs) == ours.vocab_size


def test_what_transformers_saves_loads_here(tmp_path: Path) -> None:
    tokenizer("bpe").save(tmp_path / "ours")
    AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = Tokenizer.load(tmp_path / "theirs")
    assert again.kind == "bpe"
    assert again.encode(TEXT) == tokenizer("bpe").encode(TEXT)
    assert again.eot_id == tokenizer("bpe").eot_id


def test_settings_that_came_with_a_tokenizer_are_kept_but_code_is_not(tmp_path: Path) -> None:
    tokenizer("byte").save(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(
        json.dumps(
            {**json.loads(file.read_text()), "model_max_length": 77, "auto_map": {"AutoTokenizer": "x.Y"}}
        )
    )
    Tokenizer.load(tmp_path).save(tmp_path / "again")
    kept = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert kept["model_max_length"] == 77
    assert "auto_map" not in kept
