"""How well the ceilings of this machine repeat: `python benchmarks/ceilings.py [--runs 8] [--quick]`.

Measures them again and again, each time in a process of its own, as `gptwo bench` does before and after a run, and adds
a line to benchmarks/history/ceilings.jsonl. The bar: within 5% of each other on a machine that is quiet; a run is left
out, and counted, when other processes were at work just before or after it.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import pairwise
from typing import Any

import record

from gptwo.perf.ceilings import LOOSE_DRIFT, QUIET_DRIFT, Ceilings, drift, too_far
from gptwo.perf.environment import BUSY, others_share
from gptwo.perf.process import ask

_LEAST_RUNS = 2
# Between two runs, in which what else happens on the machine is listened to.
_LISTEN_S = 0.5


def figures(found: Ceilings) -> dict[str, float]:
    """What is held to the bar: products by dtype, and memory."""
    return {
        **{f"{dtype} products, GFLOP/s": speed / 1e9 for dtype, speed in found.matmul_flops_per_s.items()},
        "memory read, GB/s": found.read_bytes_per_s / 1e9,
        "memory copied, GB/s": found.copy_bytes_per_s / 1e9,
    }


def repeated(runs: list[Ceilings]) -> dict[str, Any]:
    """Of each figure its values and how far the extremes are apart; and how many steps from run to run miss the bar."""
    values = [figures(found) for found in runs]
    moved = [drift(one, other) for one, other in pairwise(runs)]
    return {
        "figures": {
            name: {
                **(spread := record.spread([value[name] for value in values])),
                "apart": spread["max"] / spread["min"] - 1,
            }
            for name in values[0]
        },
        "steps": len(moved),
        "steps_above": sum(bool(too_far(one)) for one in moved),
    }


def main(arguments: list[str]) -> int:
    """Measure, keep the line, print what it says; 1 where the machine was never quiet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="as `gptwo bench --quick` takes them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args(arguments)
    question = {"what": "ceilings", "device": given.device, "threads": given.threads, "quick": given.quick}
    runs, quiet, seconds = [], [others_share(_LISTEN_S)], []
    disturbed = 0
    while len(runs) < given.runs and disturbed < given.runs:
        began = time.perf_counter()
        found = Ceilings.from_json(ask(question))
        took = time.perf_counter() - began
        quiet.append(others_share(_LISTEN_S))
        if max(quiet[-2:]) > BUSY:
            disturbed += 1
            print(f"left out: other processes took {max(quiet[-2:]):.0%}", file=sys.stderr, flush=True)
            continue
        runs.append(found)
        seconds.append(took)
        print(f"[{len(runs)}/{given.runs}] {took:.1f} s", file=sys.stderr, flush=True)
    if len(runs) < _LEAST_RUNS:
        print("the machine was never quiet for long enough; nothing is kept", file=sys.stderr)
        return 1
    line = record.append(
        "ceilings",
        {
            "device": given.device,
            "threads": runs[0].threads,
            "quick": given.quick,
            "seconds": record.spread(seconds)["median"],
            "others_share": 0.0,
            "disturbed": disturbed,
            **repeated(runs),
        },
    )
    for name, found in line["figures"].items():
        reach = f"{found['min']:8,.1f} to {found['max']:8,.1f}"
        print(f"{name:26} {found['median']:8,.1f}  {reach}  {found['apart']:.1%} apart")
    print(
        f"{line['steps_above']} of {line['steps']} steps from run to run above {QUIET_DRIFT:.0%} "
        f"(of microseconds {LOOSE_DRIFT:.0%})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
