"""Sizes on the command line, read and shown."""

from __future__ import annotations

import argparse

import pytest

from gptwo.cli.size import parse_size, size_text


@pytest.mark.parametrize(
    ("text", "count"), [("17", 17), ("512MB", 512 * 10**6), ("2GiB", 2 << 30), ("1.5 kib", 1536)]
)
def test_a_size_is_read_with_its_unit(text: str, count: int) -> None:
    assert parse_size(text) == count


def test_what_is_no_size_is_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="'2 boxes' is no size; expected bytes"):
        parse_size("2 boxes")


@pytest.mark.parametrize(
    ("count", "text"), [(16 << 10, "16KiB"), (1025 << 10, "1025KiB"), (4 << 20, "4MiB"), (1 << 30, "1GiB")]
)
def test_a_default_is_shown_as_it_would_be_given(count: int, text: str) -> None:
    assert size_text(count) == text
    assert parse_size(text) == count
