"""Plan against measurement on this machine: `python benchmarks/plan.py [--sizes micro,gpt2,gpt2-medium] [--rounds 3]`.

In each round and for each size the ceilings are measured first, in a process of their own, and every case is predicted
from them; then each case runs in a fresh process: training steps in fp32, reading a text, and writing early and late
in the context, by the native engine in fp32 and int8. Memory is the process's peak (VmHWM). A case is a hit when the
median of the rounds' ratios lies within the bar.

A virtual machine's memory may be twice as fast a minute later (docs/decisions/0025-measuring.md). Its speed is read
before and after each case; where it is no longer that of the ceilings the case is timed again, or first the ceilings
are measured again. A case that never had a steady machine is kept as ``steady: false``, and counts as the others do.

Weights are random; `--work FOLDER` keeps them between runs. Each run adds a line to
``benchmarks/history/plan.jsonl``; about five minutes a round on two cores, on which nothing else should run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import record

from gptwo.config import GPT2Config, preset
from gptwo.kernels.library import open_kernels
from gptwo.perf.ceilings import Ceilings
from gptwo.perf.environment import others_share
from gptwo.perf.predict import Prediction, predict_forward, predict_training_step
from gptwo.perf.process import ask

SIZES = "micro,gpt2,gpt2-medium"
# Off by so much of the measured time and memory, at most; memory too small by so much.
TIME_BAR, MEMORY_BAR, MEMORY_UNDER_BAR = 0.15, 0.10, 0.05
STEPS, PASSES, TOKENS = 3, 5, 32
# The speed of reading memory is that of the ceilings within so much, in one of so many tries.
STEADY, TRIES = 0.12, 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """``batch`` sequences: a step on ``tokens`` of each, or a pass over them, or one more token after ``past``."""

    kind: str
    dtype: str
    batch: int = 1
    tokens: int = 1
    past: int = 0

    @property
    def title(self) -> str:
        where = f"after {self.past}" if self.kind == "decode" else f"{self.batch}x{self.tokens}"
        return f"{self.kind} {self.dtype} {where}"

    def predict(self, config: GPT2Config, ceilings: Ceilings) -> Prediction:
        """What ``gptwo plan`` says of it."""
        if self.kind == "train":
            return predict_training_step(config, ceilings, sequences=self.batch, tokens=self.tokens)
        kind: Any = self.kind
        # Of the tokens that are written, the middle one.
        past = self.past + TOKENS // 2 if kind == "decode" else 0
        return predict_forward(
            config, ceilings, kind=kind, batch=self.batch, tokens=self.tokens, past=past, dtype=self.dtype
        )

    def measure(self, folder: Path, threads: int) -> tuple[float, int]:
        """Median seconds, and the peak memory, of a fresh process."""
        request: dict[str, Any] = {
            "what": self.kind, "model": str(folder), "dtype": self.dtype, "threads": threads, "batch": self.batch,
        }  # fmt: skip
        if self.kind == "train":
            request |= {"tokens": self.tokens, "dropout": 0.0, "samples": STEPS}
        elif self.kind == "prefill":
            request |= {"tokens": self.tokens, "engine": "native", "samples": PASSES}
        else:
            request |= {"past": self.past, "engine": "native", "samples": TOKENS}
        result = ask(request)
        return statistics.median(result["seconds"]), result["peak_memory_bytes"]


def cases(config: GPT2Config) -> list[Case]:
    """Of one size: short and long mean a thirtieth and nine tenths of the context; a step is on about 1,000 tokens."""
    C = config.context
    length = min(C, 512)
    found = [Case(kind="train", dtype="fp32", batch=max(1, 1024 // length), tokens=length)]
    for dtype in ("fp32", "int8"):
        found.append(Case(kind="prefill", dtype=dtype, tokens=length))
        found += [
            Case(kind="decode", dtype=dtype, past=past) for past in (C // 32, min(C * 7 // 8, C - TOKENS))
        ]
    return found


def write_model(size: str, folder: Path) -> None:
    """A folder of that size with random weights, and its packed weights, by processes that end before any is timed."""
    code = (
        "import sys; from pathlib import Path; from gptwo.checkpoint.store import save_checkpoint; "
        "from gptwo.config import preset; from gptwo.model import build_model; "
        "model = build_model(preset(sys.argv[1]), seed=0, device='cpu'); "
        "save_checkpoint(Path(sys.argv[2]), config=model.config, weights=model.state_dict(), "
        "tokenizer=None, training=None)"
    )
    if not folder.exists():
        subprocess.run([sys.executable, "-c", code, size, str(folder)], check=True)
    for dtype in ("fp32", "int8"):
        ask({"what": "prefill", "model": str(folder), "engine": "native", "dtype": dtype, "tokens": 1})


class Machine:
    """This machine as it was when its ceilings were measured, and whether it still is so."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._kernels = open_kernels(threads)
        self._memory = np.ones(1 << 26, dtype=np.float32)
        self.measure()

    def measure(self) -> None:
        """Its ceilings as it is now."""
        fields = ask({"what": "ceilings", "device": "cpu", "threads": self.threads})
        self.ceilings = Ceilings.from_json(fields)
        self._read = self._read_now()

    def steady(self) -> bool:
        """Whether memory is read as fast as when the ceilings were measured."""
        return abs(self._read_now() / self._read - 1) <= STEADY

    def _read_now(self) -> float:
        return self._kernels.read_bandwidth(self._memory, 8)


def timed(case: Case, config: GPT2Config, folder: Path, machine: Machine) -> dict[str, Any]:
    """What was planned of a case and what was measured, on a machine that stayed as it was."""
    steady, tries = False, 0
    while not steady and tries < TRIES:
        tries += 1
        if not machine.steady():
            time.sleep(1)
            if not machine.steady():
                machine.measure()
        seconds, peak = case.measure(folder, machine.threads)
        steady = machine.steady()
    plan = case.predict(config, machine.ceilings)
    return {
        "predicted_s": plan.seconds,
        "measured_s": seconds,
        "floor_s": plan.floor_seconds,
        "bound_by": plan.bound_by,
        "parts_s": plan.parts,
        "predicted_bytes": plan.peak_memory_bytes,
        "measured_bytes": peak,
        "read_bytes_per_s": machine.ceilings.read_bytes_per_s,
        "steady": steady,
        "tries": tries,
    }


def run_round(sizes: list[str], work: Path, threads: int) -> dict[str, dict[str, Any]]:
    """Of every case of every size what was planned and what was measured."""
    rows = {}
    for size in sizes:
        config = replace(preset(size), dropout=0.0)
        machine = Machine(threads)
        for case in cases(config):
            name = f"{size}: {case.title}"
            row = rows[name] = timed(case, config, work / size, machine)
            print(
                f"{name:40} time {row['predicted_s'] / row['measured_s']:6.2f}  "
                f"memory {row['predicted_bytes'] / row['measured_bytes']:6.2f}  "
                f"{row['read_bytes_per_s'] / 1e9:5.1f} GB/s{'' if row['steady'] else ', not steady'}",
                file=sys.stderr,
                flush=True,
            )
    return rows


def verdicts(rounds: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of each case the medians, and whether the plan came within the bars."""
    found = []
    for name in rounds[0]:
        rows = [one[name] for one in rounds]
        time_ratio = statistics.median(row["predicted_s"] / row["measured_s"] for row in rows)
        memory_ratio = statistics.median(row["predicted_bytes"] / row["measured_bytes"] for row in rows)
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
                "time": "HIT" if abs(time_ratio - 1) <= TIME_BAR else "MISS",
                "memory": "HIT" if -MEMORY_UNDER_BAR <= memory_ratio - 1 <= MEMORY_BAR else "MISS",
                "rounds": rows,
            }
        )
    return found


def main() -> None:
    """Measure every size, print, and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=SIZES, help="sizes of gptwo's, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder for the weights; a temporary one when not given")
    options = parser.parse_args()
    sizes = options.sizes.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for size in sizes:
            write_model(size, work / size)
        busy = others_share()
        rounds = [run_round(sizes, work, options.threads) for _ in range(options.rounds)]
    rows = verdicts(rounds)
    for row in rows:
        print(
            f"{row['time']:4} {row['time_ratio'] - 1:+6.1%}  {row['predicted_s'] * 1e3:9.2f} ms for "
            f"{row['measured_s'] * 1e3:9.2f}   {row['memory']:4} {row['memory_ratio'] - 1:+6.1%}  "
            f"{row['predicted_bytes'] / 1e6:7,.0f} MB for {row['measured_bytes'] / 1e6:7,.0f}   {row['case']}"
        )
    hits = {what: sum(row[what] == "HIT" for row in rows) for what in ("time", "memory")}
    print(
        f"time within {TIME_BAR:.0%}: {hits['time']} of {len(rows)}; memory within {MEMORY_BAR:.0%}, "
        f"and not under by more than {MEMORY_UNDER_BAR:.0%}: {hits['memory']}"
    )
    record.append(
        "plan",
        {
            "threads": options.threads,
            "rounds": options.rounds,
            "others_share": busy,
            "hits": hits,
            "cases": rows,
        },
    )


if __name__ == "__main__":
    main()
