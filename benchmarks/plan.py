"""Plan against measurement on this machine: `python benchmarks/plan.py [--sizes micro,gpt2,gpt2-medium] [--rounds 3]`.

The ceilings are measured first, in a process of their own, and every case is predicted from them; then each case runs
in a fresh process: training steps in fp32, reading a text, and writing early and late in the context, by the native
engine in fp32 and int8. A case that takes a few milliseconds runs in several processes, whose median it is: each gets
other pages of memory, and a moment of another program's is longer than it. Memory is the process's peak (VmHWM). A case
is a hit when the median of the newest three rounds' ratios lies within the bar.

A virtual machine's memory may be twice as fast a minute later (docs/decisions/0025-measuring.md), and its cores slower
by a quarter. Both speeds are read before and after each case; where they are not those of ceilings that were measured,
the ceilings are measured in this state, too. Where the machine changed while a case ran, or other programs took part of
the cores meanwhile, the case is timed again. A case that never had a steady machine is kept as ``steady: false``, and
counts as the others do.

Weights are random; `--work FOLDER` keeps them between runs. Each round of a size is a line of
``benchmarks/history/plan.jsonl``; it takes one to three minutes on two cores, on which nothing else should run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import record
from plan_bars import ROUNDS, newest, verdicts

from gptwo.config import GPT2Config, preset
from gptwo.kernels.layout import pack
from gptwo.kernels.library import open_kernels
from gptwo.perf.ceilings import Ceilings
from gptwo.perf.environment import Others, others_share
from gptwo.perf.predict import Prediction, predict_forward, predict_training_step
from gptwo.perf.process import ask

SIZES = "micro,gpt2,gpt2-medium"
STEPS, PASSES, TOKENS = 3, 5, 32
# Of steps and passes that are shorter, as many as fill so many seconds, but no more.
FILL_S, MOST = 0.5, 20
# A case that takes no longer runs in so many processes.
SHORT_S, PROCESSES = 0.02, 5
# Memory and cores are as fast as when the ceilings were measured within so much, in one of so many tries. What is read
# of memory's speed in a moment varies by a tenth in one state; the states are far apart.
STEADY, TRIES = (0.2, 0.08), 5
# Other programs may take so much of the cores meanwhile.
OTHERS = 0.03
# Values of the memory whose speed is read; and of the product, rows, inputs and outputs.
MEMORY, PRODUCT = 1 << 26, (256, 1024, 1024)


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

    def measure(self, folder: Path, threads: int, *, expected_s: float) -> tuple[float, int]:
        """Median seconds, and the peak memory, of a fresh process, or of several where it takes no time."""
        found = [
            self._measure(folder, threads, samples=min(MOST, int(FILL_S / expected_s)))
            for _ in range(PROCESSES if expected_s <= SHORT_S else 1)
        ]
        return statistics.median(s for s, _ in found), int(statistics.median(peak for _, peak in found))

    def _measure(self, folder: Path, threads: int, *, samples: int) -> tuple[float, int]:
        request: dict[str, Any] = {
            "what": self.kind, "model": str(folder), "dtype": self.dtype, "threads": threads, "batch": self.batch,
        }  # fmt: skip
        if self.kind == "train":
            request |= {"tokens": self.tokens, "dropout": 0.0, "samples": max(STEPS, samples)}
        elif self.kind == "prefill":
            request |= {"tokens": self.tokens, "engine": "native", "samples": max(PASSES, samples)}
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
    if not folder.exists():
        ask({"what": "random_model", "size": size, "folder": str(folder)})
    for dtype in ("fp32", "int8"):
        ask({"what": "prefill", "model": str(folder), "engine": "native", "dtype": dtype, "tokens": 1})


class Machine:
    """This machine in each of the states in which its ceilings were measured, and whether it is in one of them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._kernels = open_kernels(threads)
        self._memory = np.ones(MEMORY, dtype=np.float32)
        rows, inputs, outputs = PRODUCT
        self._matrix = pack(np.ones((outputs, inputs), dtype=np.float32), "fp32")
        self._x = np.ones((rows, inputs), dtype=np.float32)
        self._states: list[tuple[tuple[float, float], Ceilings]] = []

    def ceilings(self) -> tuple[Ceilings, bool]:
        """Its ceilings as it is now, and whether they count: it stayed in one state meanwhile, and nothing else ran."""
        now = self._now()
        alike = [state for state in self._states if _alike(now, state[0])]
        if alike:
            return min(alike, key=lambda state: abs(now[0] / state[0][0] - 1))[1], True
        since = Others()
        found = Ceilings.from_json(ask({"what": "ceilings", "device": "cpu", "threads": self.threads}))
        count = since.share() <= OTHERS and _alike(self._now(), now)
        if count:
            self._states.append((now, found))
        return found, count

    def still(self, ceilings: Ceilings) -> bool:
        """Whether memory is read and matrices are multiplied as fast as when these were measured."""
        now = self._now()
        return any(known is ceilings and _alike(now, then) for then, known in self._states)

    def _now(self) -> tuple[float, float]:
        """Bytes per second of reading, and products per second."""
        seconds = []
        for _ in range(150):
            began = time.perf_counter()
            self._kernels.linear(self._matrix, self._x)
            seconds.append(time.perf_counter() - began)
        return self._kernels.read_bandwidth(self._memory, 8), 1 / statistics.median(seconds)


def _alike(now: Sequence[float], then: Sequence[float]) -> bool:
    return all(abs(one / other - 1) <= by for one, other, by in zip(now, then, STEADY, strict=True))


def timed(case: Case, config: GPT2Config, folder: Path, machine: Machine) -> dict[str, Any]:
    """What was planned of a case and what was measured, on a machine that stayed as it was."""
    steady, tries = False, 0
    while not steady and tries < TRIES:
        tries += 1
        ceilings, count = machine.ceilings()
        if not count and tries < TRIES:
            continue
        plan = case.predict(config, ceilings)
        since = Others()
        seconds, peak = case.measure(folder, machine.threads, expected_s=plan.seconds)
        others = since.share()
        steady = count and others <= OTHERS and machine.still(ceilings)
    return {
        "predicted_s": plan.seconds,
        "measured_s": seconds,
        "floor_s": plan.floor_seconds,
        "bound_by": plan.bound_by,
        "parts_s": plan.parts,
        "predicted_bytes": plan.peak_memory_bytes,
        "measured_bytes": peak,
        "read_bytes_per_s": ceilings.read_bytes_per_s,
        "others_share": others,
        "steady": steady,
        "tries": tries,
    }


def run_round(size: str, work: Path, machine: Machine) -> dict[str, dict[str, Any]]:
    """Of every case of a size what was planned and what was measured."""
    rows = {}
    config = replace(preset(size), dropout=0.0)
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


def main() -> None:
    """Measure, keep every round, and print what the newest ones say of each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=SIZES, help="sizes of gptwo's, with commas")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder for the weights; a temporary one when not given")
    options = parser.parse_args()
    sizes = options.sizes.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for size in sizes:
            write_model(size, work / size)
        machine = Machine(options.threads)
        for size in sizes * options.rounds:
            busy = others_share()
            rows = run_round(size, work, machine)
            record.append(
                "plan", {"size": size, "threads": options.threads, "others_share": busy, "cases": rows}
            )
    for lines in newest(record.HISTORY / "plan.jsonl"):
        for row in verdicts([line["cases"] for line in lines]):
            print(
                f"{row['time']:4} {row['time_ratio'] - 1:+6.1%}  {row['predicted_s'] * 1e3:9.2f} ms for "
                f"{row['measured_s'] * 1e3:9.2f}   {row['memory']:4} {row['memory_ratio'] - 1:+6.1%}  "
                f"{row['predicted_bytes'] / 1e6:7,.0f} MB for {row['measured_bytes'] / 1e6:7,.0f}   {row['case']}"
            )


if __name__ == "__main__":
    main()
