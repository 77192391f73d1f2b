"""The JSON of ``gptwo bench``: what it is called, how it is written and read. Its keys: docs/bench-schema.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gptwo.base.errors import DataError, StorageError

SCHEMA = "gptwo-bench/1"
KEYS = (
    *("schema", "created", "gptwo", "commit", "quick", "seconds", "model", "environment", "quiet", "devices"),
    *("ceilings", "agreement", "left_out", "initialisation", "cases", "crossing", "energy", "paper"),
)


def write_json(value: dict[str, Any], path: Path) -> None:
    """Write a record, or what ``compare`` found; errors as ``write_text``."""
    write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", path)


def require_writable(path: Path) -> None:
    """``StorageError`` for a file that ``write_text`` could not write, before minutes of measuring for it."""
    if path.is_dir():
        why = "it is a folder"
    elif not path.parent.is_dir():
        why = f"there is no folder {path.parent}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        why = "that is not allowed"
    else:
        return
    raise StorageError(f"cannot write {path}: {why}; give another path")


def write_text(text: str, path: Path) -> None:
    """Write ``path``; ``StorageError`` when the disk refuses."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; give another path") from error


def read_record(path: Path) -> dict[str, Any]:
    """A record that ``write_json`` wrote. ``DataError`` for a file that is missing, no record, or of another schema."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}; expected a JSON of gptwo bench"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); expected one of gptwo bench --json") from error
    found = record.get("schema") if isinstance(record, dict) else None
    if found != SCHEMA:
        raise DataError(
            f"{path} has the schema {found!r}; expected {SCHEMA!r}: run gptwo bench --json again with this version"
        )
    if missing := [key for key in KEYS if key not in record]:
        raise DataError(f"{path} has no {missing[0]!r}; expected a whole JSON of gptwo bench --json")
    return dict(record)
