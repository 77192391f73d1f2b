"""What a busy neighbour costs the native engine: `python benchmarks/neighbour.py [--rounds 5] [--size gpt2]`.

Decoding on all physical cores, alone and beside a process that burns one core, in turn; the share of its speed that is
left, median over the rounds, and the longest time of a single token. One JSON line goes to
``benchmarks/history/neighbour.jsonl``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import record
from decode_worker import make

from gptwo.infer.engine import Engine
from gptwo.infer.engines import load_engine

# At least this share is to be left: 0.4.
BAR = 0.4


def burn(core: int) -> None:
    """Takes one core for itself, as far as the scheduler lets it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    while True:
        pass


def seconds_per_token(engine: Engine, tokens: int) -> list[float]:
    """Of each of so many tokens after 32."""
    session = engine.start(slots=1, capacity=32 + tokens)
    logits = session.prefill([0], [np.arange(32)])
    times: list[float] = []
    for _ in range(tokens):
        begin = time.perf_counter()
        logits = session.decode([0], logits.argmax(axis=1))
        times.append(time.perf_counter() - begin)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--size", default="gpt2", help="a size of gptwo's")
    parser.add_argument("--dtypes", default="fp32,int8")
    arguments = parser.parse_args()
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    figures: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        make(arguments.size, str(model))
        for dtype in arguments.dtypes.split(","):
            engine = load_engine(model, engine="native", dtype=dtype)
            seconds_per_token(engine, arguments.tokens)
            shares: list[float] = []
            longest: list[float] = []
            for _ in range(arguments.rounds):
                alone = statistics.mean(seconds_per_token(engine, arguments.tokens))
                neighbour = multiprocessing.get_context("spawn").Process(
                    target=burn, args=(core,), daemon=True
                )
                neighbour.start()
                time.sleep(1.0)
                beside = seconds_per_token(engine, arguments.tokens)
                neighbour.kill()
                neighbour.join()
                shares.append(alone / statistics.mean(beside))
                longest.append(max(beside))
            share = statistics.median(shares)
            print(
                f"{'HIT' if share >= BAR else 'MISS'}: {dtype} keeps {share:.0%} of its speed beside a process that "
                f"burns a core ({BAR:.0%} or more); the longest token took {max(longest) * 1e3:.0f} ms"
            )
            figures[dtype] = {"share": record.spread(shares), "longest_token_s": max(longest)}
    record.append("neighbour", {"size": arguments.size, "rounds": arguments.rounds, "figures": figures})


if __name__ == "__main__":
    main()
