"""Where and with what a figure was measured, and the history that keeps it."""

from __future__ import annotations

import datetime
import json
import statistics
from pathlib import Path
from typing import Any

from gptwo.perf.environment import commit, machine

HISTORY = Path(__file__).parent / "history"


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least and greatest, and the values themselves."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def append(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Add a line to ``history/NAME.jsonl``: the figures with their time, commit and machine."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {"time": now, "commit": commit(), "machine": machine(), **figures}
    HISTORY.mkdir(exist_ok=True)
    with (HISTORY / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line
