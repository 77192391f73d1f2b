"""What a training step of GPT-2 124M costs on this CPU in fp32, beside transformers and plain PyTorch.

    python benchmarks/step.py [--shapes 4x64,4x1024] [--rounds 5] [--engines gptwo,plain,...]

Every engine takes the same step: forward, backward, clip to norm 1, fused AdamW; no dropout, random tokens. In each
round each engine in turn runs in a process of its own: a step to warm up, then the timed ones, whose median is the
round's figure; the median over the rounds counts. Peak memory is that of the process (VmHWM). An engine whose loss or
gradients differ from ours on the same weights is not timed. The ceiling is the time of the step's matrix products
alone, each by the faster of MKL and oneDNN: the linear layers' and the head's, and attention's, of which only the
causal half counts. Each run adds a line to ``benchmarks/history/step.jsonl``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import record

HERE = Path(__file__).resolve().parent
ENGINES = ("gptwo", "plain", "plain-compiled", "transformers", "transformers-compiled")
SPEED_BAR, CEILING_BAR, MEMORY_BAR = 1.2, 0.9, 0.6
# fp32, 12 blocks, sums over up to 50,257 terms in another order; gradients in units of their largest value.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3


def ask(what: str, *arguments: Any) -> Any:
    """What ``what`` returns in a process of its own. Raises ``RuntimeError`` with the last line of its errors."""
    command = [sys.executable, str(HERE / "step_worker.py"), what, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def usable(engine: str, size: str) -> str | None:
    """None, or why the engine is left out."""
    if engine.startswith("transformers") and importlib.util.find_spec("transformers") is None:
        return "needs transformers: pip install 'gptwo[dev]'"
    if engine == "gptwo" or engine.endswith("compiled"):
        return None  # what it compiles has been compared
    gap = ask("compare", engine, size)
    print(
        f"{engine}: loss differs from ours by {gap['loss']:.1e}, gradients by {gap['gradients']:.1e}, relative"
    )
    if gap["loss"] > LOSS_TOLERANCE or gap["gradients"] > GRADIENT_TOLERANCE:
        sys.exit(
            f"gptwo and {engine} do not compute the same (allowed: {LOSS_TOLERANCE}, {GRADIENT_TOLERANCE})"
        )
    return None


def measure(engines: list[str], size: str, sequences: int, length: int, rounds: int) -> dict[str, Any]:
    """Medians and spreads of one shape, printed as a table."""
    tokens = sequences * length
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    peaks: dict[str, list[int]] = {engine: [] for engine in engines}
    ceilings = []
    for number in range(rounds):
        ceilings.append(ask("ceiling", "products", size, sequences, length))
        for engine in list(engines):
            try:
                result = ask("run_engine", engine, size, sequences, length)
            except RuntimeError as error:
                print(f"{engine} is left out: {error}")
                engines.remove(engine)
                continue
            seconds[engine].append(statistics.median(result["seconds"]))
            peaks[engine].append(result["peak_bytes"])
            print(f"round {number + 1}: {engine} {seconds[engine][-1]:.2f} s", file=sys.stderr)
    best = {name: statistics.median(c[name] for c in ceilings) for name in ceilings[0]}
    ceiling_s = best["best_s"] + best["attention_s"]
    figures: dict[str, Any] = {
        engine: {
            "step_s": statistics.median(seconds[engine]),
            "spread_s": [min(seconds[engine]), max(seconds[engine])],
            "tokens_per_s": tokens / statistics.median(seconds[engine]),
            "share_of_ceiling": ceiling_s / statistics.median(seconds[engine]),
            "peak_bytes": int(statistics.median(peaks[engine])),
        }
        for engine in engines
    }
    print(f"\n{size}, {sequences}x{length} tokens, fp32, medians of {rounds} rounds")
    print(f"{'':24}{'s/step':>8}{'spread':>16}{'tokens/s':>10}{'of ceiling':>12}{'peak GB':>9}")
    for engine, row in figures.items():
        low, high = row["spread_s"]
        print(
            f"{engine:24}{row['step_s']:8.3f}{f'{low:.3f}-{high:.3f}':>16}{row['tokens_per_s']:10.1f}"
            f"{row['share_of_ceiling']:12.1%}{row['peak_bytes'] / 1e9:9.2f}"
        )
    print(
        f"ceiling {ceiling_s:.3f} s: {best['best_s']:.3f} s of linear layers and head ({best['mkl_s']:.3f} s by MKL "
        f"alone) and {best['attention_s']:.3f} s of attention"
    )
    return {"shape": [sequences, length], "rounds": rounds, "ceiling": best, "engines": figures}


def verdicts(shape: dict[str, Any]) -> dict[str, bool]:
    """The bars, each printed as hit or missed. Memory is held against the peer that takes least, where it matters."""
    figures, length = shape["engines"], shape["shape"][1]
    if "gptwo" not in figures:
        return {}
    ours = figures["gptwo"]
    peers = [row for engine, row in figures.items() if engine != "gptwo"]
    bars = {f"share of the ceiling >= {CEILING_BAR}": (ours["share_of_ceiling"], CEILING_BAR)}
    if peers:
        ratio = ours["tokens_per_s"] / max(row["tokens_per_s"] for row in peers)
        bars[f"tokens/s >= {SPEED_BAR} x the best peer's"] = (ratio, SPEED_BAR)
    hit = {name: value >= bar for name, (value, bar) in bars.items()}
    values = {name: value for name, (value, _) in bars.items()}
    if peers and length >= 1024:
        name = f"peak memory <= {MEMORY_BAR} x the least peer's"
        values[name] = ours["peak_bytes"] / min(row["peak_bytes"] for row in peers)
        hit[name] = values[name] <= MEMORY_BAR
    for name, reached in hit.items():
        print(f"{'HIT ' if reached else 'MISS'}  {name}: {values[name]:.3f}")
    return hit


def main() -> None:
    """Measure every shape, print, and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="4x64,4x1024", help="sequences x tokens, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="gpt2", help="a size of gptwo's")
    parser.add_argument("--engines", default=",".join(ENGINES))
    options = parser.parse_args()
    # As the command `gptwo` sets it, for every engine alike.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    engines = []
    for engine in options.engines.split(","):
        if (reason := usable(engine, options.size)) is None:
            engines.append(engine)
        else:
            print(f"{engine} is left out: {reason}")
    shapes = []
    for text in options.shapes.split(","):
        sequences, length = map(int, text.split("x"))
        shape = measure(list(engines), options.size, sequences, length, options.rounds)
        shapes.append({**shape, "bars": verdicts(shape)})
    record.append("step", {"size": options.size, "dtype": "fp32", "shapes": shapes})


if __name__ == "__main__":
    main()
