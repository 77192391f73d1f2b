"""Documents out of files, folders and standard input, streamed: nothing is held whole but one line or cell."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from gptwo.base.errors import DataError
from gptwo.data import tables
from gptwo.data.compressed import open_binary
from gptwo.data.text import decoded_blocks

STDIN = "-"
_SNIFF_BYTES = 1 << 13
_TABLES = {
    ".jsonl": tables.jsonl_texts,
    ".ndjson": tables.jsonl_texts,
    ".csv": tables.csv_texts,
    ".parquet": tables.parquet_texts,
}
_COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class Document:
    """A text and where it is from ("book.txt", "posts.jsonl:17"). ``blocks``, joined, are the text; read them once."""

    name: str
    blocks: Iterator[str]


@dataclass
class Skipped:
    """Files in folders that were passed over."""

    binary: int = 0
    hidden: int = 0


@dataclass
class Sources:
    """The documents of ``paths``, in order; iterate as often as wanted (``stdin`` is a spooled file, or None).

    A path is a folder (recursive, sorted by name, ``exclude`` left out, hidden and binary files skipped and counted in
    ``skipped``), ``-`` for standard input, .jsonl, .csv or .parquet (column ``text_field``), each also with .gz or
    .zst behind, or else one UTF-8 text, taken byte for byte (line ends included).
    Raises ``DataError`` naming the file, with the byte offset of bad UTF-8 or the line of a bad record.
    """

    paths: Sequence[str]
    text_field: str = "text"
    stdin: Path | None = None
    exclude: Path | None = None
    skipped: Skipped = field(default_factory=Skipped)

    def __iter__(self) -> Iterator[Document]:
        self.skipped = Skipped()
        if not self.paths:
            raise DataError("there is no text to read; expected files, folders, or - for standard input")
        for path in self.paths:
            if path == STDIN:
                if self.stdin is None:
                    raise DataError("standard input (-) is not available here; expected files or folders")
                yield Document("standard input", _file_blocks(self.stdin, "standard input"))
            else:
                for file in self.files(path):
                    yield from self.documents(file)

    def files(self, path: str) -> Iterator[Path]:
        """The file ``path``, or those of the folder ``path``. ``DataError`` when there is neither."""
        if Path(path).is_dir():
            yield from self._walk(Path(path))
        elif Path(path).exists():
            yield Path(path)
        else:
            raise DataError(f"there is no file or folder {path}; expected text to read")

    def _walk(self, folder: Path) -> Iterator[Path]:
        exclude = None if self.exclude is None else self.exclude.resolve()
        for root, folders, files in os.walk(folder, onerror=_refuse_folder):
            self.skipped.hidden += sum(name.startswith(".") for name in files)
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and Path(root, name).resolve() != exclude
            )
            for name in sorted(files):
                file = Path(root, name)
                # A socket or a pipe in a folder would block for ever; a dangling link has nothing to read.
                if name.startswith(".") or not file.is_file():
                    continue
                if _table_suffix(file) is None and _looks_binary(file):
                    self.skipped.binary += 1
                else:
                    yield file

    def documents(self, file: Path) -> Iterator[Document]:
        """The documents of one file."""
        suffix = _table_suffix(file)
        if suffix is None:
            yield Document(str(file), _file_blocks(file, str(file)))
            return
        with open_binary(file) as stream:
            for name, text in _TABLES[suffix](stream, str(file), self.text_field):
                yield Document(name, iter((text,)))


def is_json_lines(file: Path) -> bool:
    """Whether the file's name says that each of its lines is a JSON object."""
    return _table_suffix(file) in (".jsonl", ".ndjson")


def _table_suffix(file: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _TABLES else None


def _file_blocks(file: Path, name: str) -> Iterator[str]:
    with open_binary(file, name) as stream:
        yield from decoded_blocks(stream, name)


def _looks_binary(file: Path) -> bool:
    """A zero byte near the start: as git decides. Text in another encoding is not binary, and is an error later."""
    with open_binary(file) as stream:
        return b"\0" in stream.read(_SNIFF_BYTES)


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


def spool(stream: IO[bytes], file: Path) -> None:
    """Copy standard input into ``file``: it is read more than once, and may not fit in memory."""
    with file.open("wb") as target:
        while block := stream.read(1 << 20):
            target.write(block)
