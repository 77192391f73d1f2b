"""Keep what a run of `gptwo bench` found: `python benchmarks/bench.py RECORD.json`.

Adds the record to benchmarks/history/bench.jsonl, as it is but for its raw samples, and with them its megabyte;
`python benchmarks/performance.py` makes a table of the newest one. `gptwo bench gpt2 --json RECORD.json` makes it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import record

from gptwo.perf.record import read_record

NAME = "bench"


def without_samples(value: Any) -> Any:
    """The same but for the samples, by process or all."""
    if isinstance(value, dict):
        return {
            name: without_samples(item) for name, item in value.items() if name not in ("samples", "rounds")
        }
    return [without_samples(item) for item in value] if isinstance(value, list) else value


def main(arguments: list[str]) -> int:
    """Keep one record."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    found = without_samples(read_record(Path(arguments[0])))
    record.HISTORY.mkdir(exist_ok=True)
    with (record.HISTORY / f"{NAME}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(found, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
