"""What writing costs on this CPU, GPT-2 124M: every bar of the native engine, beside other engines on the same weights.

    python benchmarks/decode.py [--only 1,2,...] [--rounds 5] [--threads N] [--engines "gptwo int8,..."]

    1  decode, batch 1: 128 tokens after 32, 64 after 900      4  decode, 8 and 32 rows together
    2  the share of the read bandwidth that this takes         5  cold start: time and memory
    3  prefill: 512 and 1,023 tokens to the last one's logits  6  prompt lookup on a source file, with and without

Greedy, exactly so many tokens, the prefill timed apart. In each round each engine in turn runs in a process of its own;
the median over the rounds counts, and a ratio is of medians of one run. An engine whose logits, or tokens where it
shows none, are not ours within its precision is not timed. One that is not installed is left out, with a line that says
how to install it; it may live in an environment of its own (--peer-python). Weights are random unless --model gives
some; --work keeps them and what peers convert them to. Each run adds a line to ``benchmarks/history/decode.jsonl``;
``python benchmarks/performance.py`` makes the tables of docs/performance.md from it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import record
from decoding.bars import DTYPES, Bars, Row
from decoding.engines import DISTRIBUTIONS, ENGINES

from gptwo.checkpoint.released_config import read_config
from gptwo.perf.environment import BUSY, others_share

HERE = Path(__file__).resolve().parent
# Rows, tokens of each prompt, tokens to decode after each.
WORKLOADS = {
    "short": (1, 32, 128),
    "long": (1, 900, 64),
    "prefill-512": (1, 512, 0),
    "prefill-1023": (1, 1023, 0),
    "batch-8": (8, 32, 64),
    "batch-32": (32, 32, 16),
}
NEEDED = {1: ("short", "long"), 2: ("short", "long"), 3: ("prefill-512", "prefill-1023"), 4: ("batch-8",)}
# Of our own engines alone: 32 rows are held against their own prefill.
NEEDED_OF_OURS = {**NEEDED, 4: ("prefill-512", "batch-8", "batch-32")}
LOOKUP_PROMPT, LOOKUP_TOKENS = 512, 256
SOURCE = Path(sysconfig.get_path("stdlib")) / "argparse.py"


class Tolerance(NamedTuple):
    """How far an engine may be from ours in fp32, in standard deviations of the logits."""

    logits: float  # root mean square
    tokens: float  # of a written token below the best; two errors of the largest of V values
    why: str


TOLERANCES = {
    32: Tolerance(
        1e-3, 1e-2, "sums in another order; llama.cpp keeps keys, values and GELU's table in 16 bits"
    ),
    16: Tolerance(0.03, 0.3, "8 bits of mantissa in weights and activations"),
    8: Tolerance(0.08, 0.8, "weights and activations in 8 bits, some with one scale per tensor"),
    4: Tolerance(0.5, 4.0, "weights in 4 bits: a sixth of their deviation is lost"),
}


def interpreter(engine: str, given: list[str]) -> str:
    """The interpreter of a peer: of ``PATH`` and ``NAME=PATH`` the last that is for it, else this one."""
    pythons = {"": sys.executable} | {
        name: path for name, _, path in (text.rpartition("=") for text in given)
    }
    return pythons.get(engine.partition(" ")[0], pythons[""])


class Run:
    """One run of the benchmark: where its models lie, who takes part, and with how many threads."""

    def __init__(self, work: Path, model: Path, options: argparse.Namespace) -> None:
        self.work, self.model, self._options = work, model, options
        self.left_out: dict[str, str] = {}

    def ask(self, what: str, *arguments: Any, engine: str | None = None) -> Any:
        """A worker's answer, by the interpreter of the engine. ``RuntimeError`` with the last line of its errors."""
        peer = engine is not None and not ENGINES[engine].ours
        python = interpreter(engine, self._options.peer_python) if engine and peer else sys.executable
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._options.threads)}
        path = [str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        if not peer:
            environment.setdefault("GOMP_SPINCOUNT", "1000")  # as the command `gptwo` sets it
        command = [python, str(HERE / "decode_worker.py"), what, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        return json.loads(done.stdout.splitlines()[-1])

    def place(self, engine: str) -> tuple[Any, ...]:
        """What a worker must know to load an engine."""
        return engine, self.model, self.work / engine.replace(" ", "-"), self._options.threads

    def leave_out(self, engine: str, reason: str) -> None:
        names = DISTRIBUTIONS[ENGINES[engine].family]
        if "ModuleNotFoundError" in reason and names:
            reason = f"needs {' and '.join(names)}: pip install {' '.join(names)}"
        self.left_out[engine] = reason
        print(f"{engine} is left out: {reason}", flush=True)

    def usable(self, engines: list[str]) -> list[str]:
        """Those that are here and compute what ours computes."""
        outs = {}
        for engine in engines:
            out = self.work / f"{engine.replace(' ', '-')}.npz"
            try:
                self.ask("write", *self.place(engine), out, engine=engine)
                outs[engine] = out
            except RuntimeError as error:
                self.leave_out(engine, str(error))
        gaps = self.ask("compare", self.model, *outs.values()) if outs else []
        for engine, gap in zip(list(outs), gaps, strict=True):
            allowed = TOLERANCES[ENGINES[engine].bits]
            shown = "not shown" if gap["logits"] is None else f"{gap['logits']:.1e} off"
            print(f"{engine}: logits {shown}, tokens at most {gap['tokens']:.1e} below the best", flush=True)
            if (gap["logits"] or 0.0) > allowed.logits or gap["tokens"] > allowed.tokens:
                self.leave_out(
                    engine,
                    f"it does not compute what gptwo computes (allowed: {allowed.logits}, {allowed.tokens})",
                )
                del outs[engine]
        return list(outs)

    def engines(self, engines: list[str], only: list[int]) -> dict[str, Any]:
        """Over the rounds, of every engine tokens per second of each workload that the bars need, and the ceilings.

        Both in each round: how fast a virtual machine reads memory may change by the minute.
        """
        seen: dict[str, dict[str, list[float]]] = {engine: {} for engine in engines}
        ceilings: list[dict[str, float]] = []
        for number in range(self._options.rounds):
            if {2, 3} & set(only) and "ceilings" not in self.left_out:
                try:
                    ceilings.append(self.ask("ceilings", self._options.threads))
                except RuntimeError as error:
                    self.left_out["ceilings"] = str(error)
                    print(f"ceilings are not measured: {error}", flush=True)
            for engine in [engine for engine in engines if engine not in self.left_out]:
                needed = NEEDED_OF_OURS if ENGINES[engine].ours else NEEDED
                names = list(dict.fromkeys(name for bar in only for name in needed.get(bar, ())))
                shapes = {name: "x".join(map(str, WORKLOADS[name])) for name in names}
                try:
                    seconds = self.ask("time", *self.place(engine), *shapes.values(), engine=engine)
                except RuntimeError as error:
                    self.leave_out(engine, str(error))
                    continue
                for name, shape in shapes.items():
                    rows, prompt, count = WORKLOADS[name]
                    taken = seconds[shape]
                    speed = rows * count / taken["decode_s"] if count else rows * prompt / taken["prefill_s"]
                    seen[engine].setdefault(name, []).append(speed)
                print(f"round {number + 1}: {engine} done", file=sys.stderr, flush=True)
        speeds_of = {
            engine: {name: {"tokens_per_s": record.spread(values)} for name, values in speeds.items()}
            for engine, speeds in seen.items()
            if engine not in self.left_out
        }
        found = {key: record.spread([ceiling[key] for ceiling in ceilings]) for key in (ceilings or [{}])[0]}
        return {"engines": speeds_of, **({"ceilings": found} if found else {})}

    def repeated(self, what: str, *arguments: Any) -> dict[str, Any]:
        """A question about gptwo alone, once per round: the spread of each figure, or nothing and a line why."""
        answers = []
        for _ in range(self._options.rounds):
            try:
                answers.append(self.ask(what, *arguments))
            except RuntimeError as error:
                self.left_out[what] = str(error)
                print(f"{what} is not measured: {error}", flush=True)
                return {}
        return {key: record.spread([answer[key] for answer in answers]) for key in answers[0]}


def measure(run: Run, engines: list[str], only: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """All figures of a run, as its line in the history has them."""
    figures: dict[str, Any] = {
        "size": options.size if options.model is None else str(options.model),
        "threads": options.threads,
        "rounds": options.rounds,
        "only": only,
        "workloads": WORKLOADS,
        "others_share": others_share(),
        "peers": {},
        "engines": {},
    }
    if set(only) & set(NEEDED):
        figures.update(run.engines(run.usable(engines), only))
        for engine in figures["engines"]:
            figures["peers"].update(run.ask("versions", engine, engine=engine))
    if 5 in only:
        cold = {}
        for dtype in DTYPES:
            with contextlib.suppress(RuntimeError):  # what it says the measured one says again
                run.ask(
                    "cold", run.model, dtype, options.threads
                )  # packs the weights, and fills the disk cache
            if found := run.repeated("cold", run.model, dtype, options.threads):
                cold[dtype] = found
        figures["cold"] = cold
    if 6 in only:
        model = run.model
        if options.model is None:
            model = run.work / "knowing"
            if not model.exists():
                run.ask("know", run.model, SOURCE, model)
        arguments = (options.threads, LOOKUP_PROMPT, LOOKUP_TOKENS)
        lookups = {
            dtype: run.repeated("lookup", model, SOURCE, dtype, *arguments) for dtype in ("fp32", "int8")
        }
        figures["lookup"] = {dtype: found for dtype, found in lookups.items() if found}
    figures["others_share"] = max(figures["others_share"], others_share())
    return {**figures, "left_out": run.left_out}


def print_speeds(figures: dict[str, Any]) -> None:
    """Tokens per second of every engine and workload."""
    names = [name for name in WORKLOADS if any(name in found for found in figures["engines"].values())]
    if not names:
        return
    print(f"\ntokens per second, medians of {figures['rounds']} rounds, {figures['threads']} threads")
    print(f"{'':20}" + "".join(f"{name:>14}" for name in names))
    for engine, found in figures["engines"].items():
        cells = (f"{found[n]['tokens_per_s']['median']:.1f}" if n in found else "-" for n in names)
        print(f"{engine:20}" + "".join(f"{cell:>14}" for cell in cells))


def print_bars(rows: list[Row], figures: dict[str, Any]) -> None:
    """Every bar as hit, missed or not measured."""
    print()
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.2f}"
        goal = f"{'<=' if row.at_most else '>='} {row.target:g}"
        print(
            f"{row.verdict:12} {row.bar}  {row.what:48} {row.figure:>12}  {row.against:32} {value:>6}  {goal}"
        )
    if figures["others_share"] > BUSY:
        print(f"the machine was busy: other processes took {figures['others_share']:.0%} of it")


@contextlib.contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """The folder given, or one that is gone afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def add_common(parser: argparse.ArgumentParser, *, rounds: int, peer: str) -> None:
    """The flags of a benchmark beside peers: how often, with how many threads, which model, who has the peers."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or os.cpu_count())
    parser.add_argument("--size", default="gpt2", help="a size of gptwo's, with random weights")
    parser.add_argument("--model", type=Path, help="a model's folder instead")
    parser.add_argument("--work", type=Path, help="where models are kept; without it they are made each time")
    parser.add_argument(
        "--peer-python",
        metavar="[NAME=]PATH",
        action="append",
        default=[],
        help=f"the interpreter that has the peers, or the one of that name, e.g. {peer}; default this one",
    )


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="1,2,3,4,5,6", help="numbers of bars, with commas")
    parser.add_argument("--engines", default=",".join(ENGINES), help="names, with commas")
    add_common(parser, rounds=5, peer="OpenVINO")
    options = parser.parse_args()
    only = sorted(map(int, options.only.split(",")))
    with work_folder(options.work) as work:
        model = options.model or work / options.size
        run = Run(work, model, options)
        if not model.exists():
            run.ask("make", options.size, model)
        figures = measure(run, options.engines.split(","), only, options)
        rows = [row for row in Bars(figures, read_config(model)).rows() if row.bar in only]
    print_speeds(figures)
    print_bars(rows, figures)
    record.append("decode", {**figures, "bars": [row.to_json() for row in rows]})


if __name__ == "__main__":
    main()
