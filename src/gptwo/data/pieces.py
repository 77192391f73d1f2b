"""Cutting a long document into pieces that encode as the whole does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PIECE_CHARACTERS = 1 << 14
# A text without one safe place in this many characters (base64, a minified file, some scripts without spaces) is cut
# anyway, so that memory stays bounded: there, and only there, the ids around the cut may differ from the whole's.
CAP_CHARACTERS = 1 << 18

# Why this place is safe. GPT-2's pre-tokens are 's|'t|'re|'ve|'m|'ll|'d | ?\p{L}+ | ?\p{N}+ | ?[^\s\p{L}\p{N}]+ |
# \s+(?!\S) | \s+ : whitespace occurs in one only as its first character, or it is whitespace throughout. So none has a
# non-whitespace character followed by whitespace, and every pre-token ends at such a place. The one lookahead, (?!\S),
# looks only from within a run of whitespace, and no such run ends the left piece; there is no lookbehind, so the right
# piece is matched as if the left were there. BPE merges stay within pre-tokens. Python's \S leaves out all that the
# pattern's \s holds (and four separators more, which only means fewer cuts).
# Chinese and Japanese may go on for long without a space. There, a letter followed by punctuation is as safe: no
# alternative has one after the other.
_SAFE = re.compile(
    r"(?<=\S)[ \t\n\r]|(?<=[\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3])[。、，．！？；：」]"
)


def pieces(
    blocks: Iterable[str],
    *,
    piece_characters: int = PIECE_CHARACTERS,
    cap_characters: int = CAP_CHARACTERS,
) -> Iterator[str]:
    """Cut the text that ``blocks`` make together into non-empty pieces: where depends on the text, not on the blocks.

    Each piece ends at the last safe place within ``piece_characters``; if there is none, at the first one after; if
    there is none within ``cap_characters``, there. Joined, the pieces are the text.
    """
    buffer = ""
    for block in blocks:
        buffer += block
        start = 0
        while (cut := _cut(buffer, start, piece_characters, cap_characters)) is not None:
            yield buffer[start:cut]
            start = cut
        buffer = buffer[start:]
    if buffer:
        yield buffer


def _cut(text: str, start: int, piece_characters: int, cap_characters: int) -> int | None:
    if len(text) - start <= piece_characters:
        return None
    # Backwards in growing stretches: there is nearly always a space among the last few characters.
    stretch = 64
    last = start + piece_characters
    while True:
        low = max(start, last - stretch)
        latest = max((found.start() for found in _SAFE.finditer(text, low, last + 1)), default=start)
        if latest > start:
            return latest
        if low == start:
            break
        stretch *= 16
    found = _SAFE.search(text, last + 1, start + cap_characters)
    if found is not None:
        return found.start()
    return start + cap_characters if len(text) - start > cap_characters else None
