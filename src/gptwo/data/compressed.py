"""Opening files as they are, or through gzip or zstandard, with one kind of error."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from gptwo.base.errors import DataError, MissingExtraError

_PACKED_BLOCK_BYTES = 1 << 14


@contextmanager
def open_binary(file: Path, name: str | None = None) -> Iterator[IO[bytes]]:
    """A stream of the bytes of ``file``, unpacked when it ends in .gz or .zst.

    Raises ``DataError`` for a file that cannot be read or whose packing is broken or cut, ``MissingExtraError``
    without zstandard.
    """
    name = name or str(file)
    try:
        with file.open("rb") as raw:
            if file.suffix.lower() == ".gz":
                with gzip.open(raw) as unpacked:
                    yield cast("IO[bytes]", unpacked)
            elif file.suffix.lower() == ".zst":
                yield io.BufferedReader(_ZstandardReader(raw, name), buffer_size=1 << 18)
            else:
                yield raw
    except DataError:
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} is not whole gzip data ({error}); fetch or pack it again") from error
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error


class _ZstandardReader(io.RawIOBase):
    """Zstandard frames, one after another. The library's own reader ends quietly where a cut file ends."""

    def __init__(self, raw: IO[bytes], name: str) -> None:
        try:
            import zstandard
        except ImportError:
            raise MissingExtraError(
                f"{name} is packed with zstandard, which is not installed; `pip install 'gptwo[data]'`"
            ) from None
        self._raw = raw
        self._name = name
        self._frames = zstandard.ZstdDecompressor()
        self._frame: Any = self._frames.decompressobj()
        self._error = zstandard.ZstdError
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            packed = self._raw.read(_PACKED_BLOCK_BYTES)
            if not packed:
                if self._frame is not None:
                    raise self._broken("it ends in the middle")
                return 0
            self._unpacked = memoryview(self._unpack(packed))
        count = min(len(buffer), len(self._unpacked))
        buffer[:count] = self._unpacked[:count]
        self._unpacked = self._unpacked[count:]
        return count

    def _unpack(self, packed: bytes) -> bytes:
        text = bytearray()
        while packed:
            frame = self._frame if self._frame is not None else self._frames.decompressobj()
            try:
                text += frame.decompress(packed)
            except self._error as error:
                raise self._broken(str(error)) from error
            packed = frame.unused_data
            self._frame = None if frame.eof else frame
        return bytes(text)

    def _broken(self, reason: str) -> DataError:
        return DataError(f"{self._name} is not whole zstandard data ({reason}); fetch or pack it again")
