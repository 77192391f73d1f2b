"""Where and with what a figure was measured, and the history that keeps it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

HISTORY = Path(__file__).parent / "history"
# From this share of the machine that other processes take, figures are not of a quiet one.
BUSY = 0.1


def machine() -> dict[str, Any]:
    """Processor, cores and the versions of what computes."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy")},
    }


def commit() -> str:
    """The commit that ran, with + when files differ from it."""

    def git(*arguments: str) -> str:
        run = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    dirty = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if dirty else "")


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


def others_share(seconds: float = 0.5) -> float:
    """The share of all cores that other processes take while this one waits; 0 where /proc does not say."""

    def times() -> list[int]:
        try:
            return [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except OSError:
            return [0] * 8

    before = times()
    time.sleep(seconds)
    spent = [after - at_first for at_first, after in zip(before, times(), strict=True)]
    idle = spent[3] + spent[4]  # idle, and waiting for a disk
    return 1 - idle / sum(spent) if sum(spent) else 0.0
