"""The JSON of ``gptwo bench``: what it is called, how it is written and read. Its keys: docs/bench-schema.md.

``gptwo plan --json`` writes its plan by it, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gptwo.base.errors import DataError, StorageError

SCHEMA = "gptwo-bench/1"
KEYS = (
    *("schema", "created", "gptwo", "commit", "quick", "seconds", "model", "environment", "quiet", "devices"),
    *("ceilings", "agreement", "left_out", "initialisation", "cases", "crossing", "energy", "paper"),
)

_Kinds = Mapping[str, type | tuple[type, ...]]
_NUMBER = (int, float)
_SUMMARY: _Kinds = {
    **dict.fromkeys(("median", "low", "high", "p50", "p95"), _NUMBER),
    **{"n": int, "p99": (int, float, type(None)), "samples": list},
}
_CEILINGS: _Kinds = {
    **{"device": str, "name": str, "threads": int, "measured_at": str},
    **{"matmul_flops_per_s": dict, "model_matmul_flops_per_s": dict},
    **{"read_bytes_per_s": _NUMBER, "copy_bytes_per_s": _NUMBER, "dispatch_s": _NUMBER},
    **{"launch_s": (int, float, type(None)), "transfers": (dict, type(None))},
}
_FIT: _Kinds = {"latency_s": _NUMBER, "bytes_per_s": _NUMBER}
# Characters of a damaged value that a message shows.
_LONGEST = 40


def write_json(value: dict[str, Any], path: Path) -> None:
    """Write a record, what ``compare`` found, or a plan; errors as ``write_text``."""
    write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", path)


def require_writable(path: Path) -> None:
    """``StorageError`` for a file that ``write_text`` could not write, before anything is measured for it."""
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
    """A record that ``write_json`` wrote.

    ``DataError`` for a file that is missing, no record, of another schema, or without what ``compare`` looks at.
    """
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
    if wrong := next(_wrong(record), None):
        raise DataError(f"{path} is damaged: {wrong}; expected a whole JSON of gptwo bench --json")
    return dict(record)


def _wrong(record: dict[str, Any]) -> Iterator[str]:
    """Where it is not a record's: what is there, and what should be. One that goes on after its first may raise."""
    yield from _lacks("model", record["model"], {"name": str, "config": dict, "weights": str})
    yield from _lacks("environment", record["environment"], {})
    yield from _wrong_gpus(record["environment"])
    yield from _lacks("quiet", record["quiet"], {"reasons": list})
    place = {"device": str, "engine": str, "dtype": str}
    yield from _of_each("ceilings", record["ceilings"], {"device": str, "before": dict})
    yield from _of_each("initialisation", record["initialisation"], {**place, "total": dict})
    yield from _of_each("cases", record["cases"], {"id": str, "measured": bool})
    for i, entry in enumerate(record["ceilings"]):
        yield from _lacks(f"ceilings[{i}]", entry, {"after": (dict, type(None))})
        for when in ("before", "after"):
            if entry[when] is not None:
                yield from _wrong_ceilings(f"ceilings[{i}].{when}", entry[when])
    for i, entry in enumerate(record["initialisation"]):
        yield from _lacks(f"initialisation[{i}].total", entry["total"], _SUMMARY)
    for i, case in enumerate(record["cases"]):
        if case["measured"]:
            yield from _lacks(f"cases[{i}]", case, {"rounds": list})
            yield from _lacks(f"cases[{i}].seconds", case.get("seconds"), _SUMMARY)


def _wrong_gpus(environment: dict[str, Any]) -> Iterator[str]:
    """Records before 2026-11-30 have ``gpu`` alone."""
    if environment.get("gpu") is not None:
        yield from _lacks("environment.gpu", environment["gpu"], {"name": str})
    if "gpus" in environment:
        yield from _lacks("environment.gpus", environment["gpus"], {})
        for device, gpu in environment["gpus"].items():
            yield from _lacks(f"environment.gpus.{device}", gpu, {"name": str})


def _wrong_ceilings(where: str, found: dict[str, Any]) -> Iterator[str]:
    yield from _lacks(where, found, _CEILINGS)
    speeds = found["matmul_flops_per_s"]
    yield from _lacks(f"{where}.matmul_flops_per_s", speeds, dict.fromkeys(speeds, _NUMBER))
    for direction, kinds in (found["transfers"] or {}).items():
        yield from _lacks(f"{where}.transfers.{direction}", kinds, {})
        for kind, fit in kinds.items():
            yield from _lacks(f"{where}.transfers.{direction}.{kind}", fit, _FIT)


def _of_each(where: str, values: Any, kinds: _Kinds) -> Iterator[str]:
    if not isinstance(values, list):
        yield f"{where} is {_said(values)}, not a list"
        return
    for i, value in enumerate(values):
        yield from _lacks(f"{where}[{i}]", value, kinds)


def _lacks(where: str, value: Any, kinds: _Kinds) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is {_said(value)}, not an object"
        return
    for name, kind in kinds.items():
        if name not in value:
            yield f"{where} has no {name!r}"
        elif not isinstance(value[name], kind):
            yield f"{where}.{name} is {_said(value[name])}"


def _said(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
