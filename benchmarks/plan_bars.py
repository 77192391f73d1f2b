"""The bars that plans are held to, and what the kept rounds of ``plan.py`` say of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Off by so much of the measured time and memory, at most; memory too small by so much.
TIME_BAR, MEMORY_BAR, MEMORY_UNDER_BAR = 0.15, 0.10, 0.05
# Of a size so many rounds count, the newest.
ROUNDS = 3


def newest(history: Path) -> list[list[dict[str, Any]]]:
    """Of each size the newest rounds, all of the commit of the newest one, in the order in which sizes came."""
    if not history.exists():
        return []
    found: dict[str, list[dict[str, Any]]] = {}
    for text in history.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        found.setdefault(line["size"], []).append(line)
    return [
        [line for line in lines if line["commit"] == lines[-1]["commit"]][-ROUNDS:]
        for lines in found.values()
    ]


def verdicts(rounds: Sequence[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of each case the medians, and whether the plan came within the bars; memory is never short, in no round."""
    found = []
    for name in rounds[0]:
        rows = [one[name] for one in rounds if name in one]
        time_ratio = statistics.median(row["predicted_s"] / row["measured_s"] for row in rows)
        memory_ratios = [row["predicted_bytes"] / row["measured_bytes"] for row in rows]
        memory_ratio, least = statistics.median(memory_ratios), min(memory_ratios)
        short, over = least - 1 < -MEMORY_UNDER_BAR, memory_ratio - 1 > MEMORY_BAR
        medians = {
            key: statistics.median(row[key] for row in rows)
            for key in ("predicted_s", "measured_s", "floor_s", "predicted_bytes", "measured_bytes")
        }
        found.append(
            {
                "case": name,
                **medians,
                "time_ratio": time_ratio,
                "memory_ratio": memory_ratio,
                "least_memory_ratio": least,
                "time": "HIT" if abs(time_ratio - 1) <= TIME_BAR else "MISS",
                "memory": "MISS" if short or over else "HIT",
                "steady": all(row["steady"] for row in rows),
            }
        )
    return found
