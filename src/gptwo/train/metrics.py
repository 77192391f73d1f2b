"""``RUN/metrics.jsonl``: one JSON object a line, appended as the run goes. ``docs/metrics.md`` lists the keys."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptwo.base.errors import StorageError


class MetricsLog:
    """Log of a run that begins after ``first_step``: lines of later steps, of an earlier attempt, are gone.

    Raises ``StorageError`` when the disk refuses.
    """

    def __init__(self, path: Path, *, first_step: int) -> None:
        self._path = path
        self.cut(first_step)

    def cut(self, last_step: int) -> None:
        """Remove the lines of later steps, which are taken again."""
        path = self._path
        kept = [record for record in read_metrics(path) if record["step"] <= last_step]
        partial = path.with_suffix(".jsonl.partial")
        with _reported(path):
            partial.write_text("".join(_line(record) for record in kept), encoding="utf-8")
            partial.replace(path)

    def append(self, record: dict[str, Any]) -> None:
        """Write one line and flush it."""
        with _reported(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(_line(record))

    def flush_to_disk(self) -> None:
        """Returns when the lines so far would survive a power cut: a checkpoint counts on those before it."""
        with _reported(self._path), self._path.open("a", encoding="utf-8") as file:
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """The records so far."""
        return read_metrics(self._path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file; a line that is no record of a step, cut short or damaged, is left out.

    Empty when there is no file.
    """
    if not path.exists():
        return []
    records = []
    with _reported(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot use {path}: {error.strerror}; free some space or clear the way, and resume"
        ) from error
