"""``RUN/metrics.jsonl``: one JSON object a line, appended as the run goes. ``docs/metrics.md`` lists the keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gptwo.base.errors import StorageError


class MetricsLog:
    """Append-only log of a run. After a resume from step s, lines of later steps are gone and written anew."""

    def __init__(self, path: Path, *, resume_step: int | None = None) -> None:
        self._path = path
        if resume_step is not None:
            kept = [line for line in read_metrics(path) if line["step"] <= resume_step]
            self._replace(kept)

    def append(self, record: dict[str, Any]) -> None:
        """Write one line and flush it. Raises ``StorageError`` when the disk refuses."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise StorageError(
                f"cannot write {self._path}: {error.strerror}; free some space and resume"
            ) from error

    def read(self) -> list[dict[str, Any]]:
        """The records so far."""
        return read_metrics(self._path)

    def _replace(self, records: list[dict[str, Any]]) -> None:
        partial = self._path.with_suffix(".jsonl.partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        partial.replace(self._path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file; a last line that a kill cut short is left out. Empty when there is no file."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
