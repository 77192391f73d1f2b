"""Which windows of a long row of tokens predict which of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Window(NamedTuple):
    """The model reads ``length`` tokens from ``start`` on; the last ``predicted`` of start+1 … start+length count."""

    start: int
    length: int
    predicted: int


def windows(tokens: int, context: int, stride: int | None = None) -> Iterator[Window]:
    """Windows of at most C tokens, each beginning S (``stride``; C when None) after the one before, 1 <= S <= C.

    Together they predict every token but the first exactly once, each from all tokens before it or from at least
    C - S + 1 of them. With S = C they lie side by side. The last window may be shorter.
    """
    last = tokens - 1
    done = start = 0
    while done < last:
        end = min(start + context, last)
        yield Window(start, end - start, end - done)
        done = end
        start += context if stride is None else stride


def bytes_of_predicted(text_bytes: int, tokens: int, predicted: int) -> float:
    """The bytes of ``predicted`` tokens of a text: the mean bytes of a token each.

    The first token is given, not predicted, so its bytes are not counted either.
    """
    return text_bytes * predicted / tokens
