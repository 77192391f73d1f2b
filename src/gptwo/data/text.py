"""Bytes to text, strictly: bad UTF-8 is named by its byte offset."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import IO

from gptwo.base.errors import DataError

_BLOCK_BYTES = 1 << 18
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def decoded_blocks(stream: IO[bytes], name: str, *, block_bytes: int = _BLOCK_BYTES) -> Iterator[str]:
    """The text of ``stream`` block by block, line ends untouched. ``DataError`` with the offset of a bad byte."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    ended = False
    while not ended:
        block = stream.read(block_bytes)
        ended = not block
        # Bytes of a character that the last block cut in two wait in the decoder and come before this block's.
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=ended)
        except UnicodeDecodeError as error:
            raise _bad_utf8(name, error, offset - pending) from None
        offset += len(block)
        if text:
            yield text


def decoded_lines(stream: IO[bytes], name: str) -> Iterator[str]:
    """The lines of ``stream`` with their ends, cut at "\\n" only; a byte-order mark at the start is left out."""
    offset = 0
    for line in stream:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _bad_utf8(name, error, offset) from None
        yield text.removeprefix("\ufeff") if offset == 0 else text
        offset += len(line)


def _bad_utf8(name: str, error: UnicodeDecodeError, offset: int) -> DataError:
    other = _OTHER_ENCODINGS.get(bytes(error.object[:2])) if offset == 0 else None
    remedy = f"it looks like {other}: " if other else ""
    byte = error.object[error.start]
    return DataError(
        f"{name}: byte 0x{byte:02x} at offset {offset + error.start} is not UTF-8 ({error.reason}); "
        f"{remedy}convert the file, e.g. with `iconv -t UTF-8`"
    )
