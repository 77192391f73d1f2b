from __future__ import annotations

from pathlib import Path

from gptwo.data import prepare


def test_a_split_far_from_what_was_asked_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "long.txt").write_text("a long document, line by line\n" * 400, encoding="utf-8")
    (folder / "short.txt").write_text("a note\n", encoding="utf-8")
    notice = prepare([str(folder)], tokenizer="byte", out=tmp_path / "few").split_notice
    assert notice is not None
    assert "where 10.0% was asked" in notice


def test_an_even_split_is_not(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a long document, line by line\n" * 400, encoding="utf-8")
    assert prepare([str(tmp_path / "one.txt")], tokenizer="byte", out=tmp_path / "one").split_notice is None


def test_no_validation_split_is_said(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a long document, line by line\n" * 400, encoding="utf-8")
    index = prepare([str(tmp_path / "one.txt")], tokenizer="byte", out=tmp_path / "none", val_fraction=0.0)
    assert index.split_notice is not None
    assert "needs one" in index.split_notice
