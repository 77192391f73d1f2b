"""One text per record: JSON lines, CSV, Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import IO, Any

from gptwo.base.errors import DataError, MissingExtraError
from gptwo.data.text import decoded_lines

# The csv module's own limit, 128 KiB, is shorter than many documents; one cell is held whole, so some limit stays.
_CSV_FIELD_CHARACTERS = 1 << 27
_PARQUET_ROWS = 256

Named = Iterator[tuple[str, str]]


def jsonl_records(
    stream: IO[bytes], name: str, *, expected: str = "an object"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of each JSON line, empty ones passed over. ``DataError`` for a line that is no object.

    ``expected`` says in the error what such a line should have been.
    """
    for number, line in enumerate(decoded_lines(stream, name), start=1):
        if line.isspace():
            continue
        where = f"{name}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where} is not JSON ({error}); expected one object a line") from error
        if not isinstance(record, dict):
            raise DataError(f"{where} holds {type(record).__name__}; expected {expected}")
        yield where, record


def jsonl_texts(stream: IO[bytes], name: str, text_field: str) -> Named:
    """("file:line", text) of each JSON line. ``DataError`` for a line that is no object with a string field."""
    for where, record in jsonl_records(stream, name):
        if text_field not in record:
            fields = ", ".join(map(repr, list(record)[:8])) or "none"
            raise DataError(
                f"{where} has no field {text_field!r}; its fields are {fields}: name one with --text-field"
            )
        yield where, _string(record[text_field], where, text_field)


def csv_texts(stream: IO[bytes], name: str, text_field: str) -> Named:
    """("file:line", text) of each row below the header line. ``DataError`` without the column."""
    csv.field_size_limit(max(csv.field_size_limit(), _CSV_FIELD_CHARACTERS))
    rows = csv.reader(decoded_lines(stream, name), strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        if text_field not in header:
            columns = ", ".join(map(repr, header[:8]))
            raise DataError(
                f"{name} has no column {text_field!r}; its columns are {columns}: name one with --text-field"
            )
        column = header.index(text_field)
        for row in rows:
            where = f"{name}:{rows.line_num}"
            if not row:
                continue
            if len(row) <= column:
                raise DataError(f"{where} has {len(row)} cells; expected {len(header)} as in the header")
            yield where, row[column]
    except csv.Error as error:
        raise DataError(f"{name}:{rows.line_num} is not CSV ({error})") from error


def parquet_texts(stream: IO[bytes], name: str, text_field: str) -> Named:
    """("file:row", text) of each row, counted from 1. ``DataError`` without the column or for a null."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError(
            f"{name} is Parquet, which needs pyarrow, not installed; `pip install 'gptwo[data]'`"
        ) from None
    try:
        # No pre-buffering: a row group may be gigabytes, and only one batch of rows is wanted at a time.
        file = pyarrow.parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 18)
        columns = file.schema_arrow.names
        if text_field not in columns:
            found = ", ".join(map(repr, columns[:8]))
            raise DataError(
                f"{name} has no column {text_field!r}; its columns are {found}: name one with --text-field"
            )
        number = 0
        for rows in file.iter_batches(batch_size=_PARQUET_ROWS, columns=[text_field], use_threads=False):
            for value in rows.column(0):
                number += 1
                yield f"{name}:{number}", _string(value.as_py(), f"{name}:{number}", text_field)
    except pyarrow.ArrowException as error:
        raise DataError(f"{name} is not Parquet that can be read: {str(error).splitlines()[0]}") from error


def _string(value: object, where: str, text_field: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: field {text_field!r} is {type(value).__name__}; expected text")
    return value
