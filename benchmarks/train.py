"""How fast gptwo learns: `python benchmarks/train.py shakespeare [TEXT]` and `python benchmarks/train.py bpe`.

shakespeare: validation loss by wall clock, beside nanoGPT's recipe for a CPU, in the same run on the same machine.
bpe: validation loss by steps, Muon beside tuned AdamW, a 10M-parameter model on Python's standard library.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import nanogpt
import record
import torch

from gptwo.config import GPT2Config, TrainConfig
from gptwo.data import TokenData, prepare
from gptwo.demo import standard_library_files
from gptwo.model import GPT2, build_model
from gptwo.train.evaluate import evaluate
from gptwo.train.optimizer import build_optimizer
from gptwo.train.recipes import resolve_recipe
from gptwo.train.schedule import schedule_factor
from gptwo.train.setup import loss_function, tune_process
from gptwo.train.source import PreparedText
from gptwo.train.step import optimizer_step, seed_step

# Chosen by measurement: docs/decisions/0012-recipes.md.
SHAKESPEARE = GPT2Config(n_layer=3, n_head=3, n_embd=96, context=64, vocab_size=65, dropout=0.0)
SHAKESPEARE_SETTINGS: dict[str, Any] = {"batch_tokens": 2048}
BPE = GPT2Config(n_layer=8, n_head=8, n_embd=288, context=128, vocab_size=4096, dropout=0.0)
BPE_BATCH_TOKENS = 1024
BPE_VALIDATION_TOKENS = 20_000
BPE_ADAMW: dict[str, Any] = {
    "optimizer": "adamw",
    "schedule": "cosine",
    "beta2": 0.99,
    "warmup_steps": 30,
}
# AdamW learns at the best of these, each tried with the first seed.
BPE_ADAMW_RATES = (6e-4, 1e-3, 1.6e-3, 2.4e-3)
BPE_MUON: dict[str, Any] = {"optimizer": "muon"}

# Steps that tell how long one takes, inside the clock: they are the first of the run. The first of them warms up.
_TIMED_STEPS = 12
Curve = list[tuple[float, float]]


class Run:
    """A training run of gptwo's own step over prepared text, on the CPU in fp32: model, source, steps one by one."""

    def __init__(self, shape: GPT2Config, data: Path, settings: dict[str, Any]) -> None:
        config = TrainConfig(data=str(data), out="", model="nano", device="cpu", dtype="fp32", **settings)
        self.config = resolve_recipe(config, shape)
        self.model = build_model(shape, seed=config.seed, device="cpu").train()
        self._optimizer = build_optimizer(self.model, self.config)
        self._loss_sum = loss_function(self.model, compile_step=False)
        self._source = PreparedText(data, self.config, shape.context)

    def step(self, step: int) -> float:
        """The loss of one step, in nats per token."""
        seed_step(self.config.seed, step)
        rows = self._source.batch(step, 0, self._source.sequences)
        result = optimizer_step(
            self.model,
            self._loss_sum,
            self._optimizer,
            [(torch.from_numpy(rows.tokens), torch.from_numpy(rows.targets))],
            predicted_tokens=self._source.predicted_tokens(step),
            lr_factor=schedule_factor(step, self.config),
            grad_clip=self.config.grad_clip,
        )
        return float(result.loss)

    def within(self, seconds: float) -> Curve:
        """Train until ``seconds`` are over, as many steps as fit; (seconds, loss) of each step.

        The number of steps is planned from the time that the first ones take, inside the clock, and again every 50
        steps: only where the learning rate begins to fall, and how steeply, depends on it.
        """
        curve: Curve = []
        began = time.perf_counter()
        spent, step_s, steps = 0.0, 0.0, self.config.steps
        while len(curve) < steps and spent + step_s <= seconds:
            loss = self.step(len(curve))
            spent = time.perf_counter() - began
            curve.append((spent, loss))
            if len(curve) == _TIMED_STEPS or len(curve) % 50 == 0:
                recent = curve[-50:]
                step_s = (recent[-1][0] - recent[0][0]) / (len(recent) - 1)
                steps = len(curve) + max(0, int((seconds - spent) / step_s))
                self.config = dataclasses.replace(self.config, steps=steps)
        return curve

    def all_steps(self) -> Curve:
        """Train ``config.steps`` steps; (step, loss) of each."""
        return [(step + 1, self.step(step)) for step in range(self.config.steps)]


def loss_at_context(model: GPT2, data: TokenData, context: int) -> float:
    """Nats per token over the whole split when the model is given windows of ``context`` tokens, at most its own."""
    config = model.config
    model.config = dataclasses.replace(config, context=context)
    try:
        return evaluate(model, data, micro_batch=4096 // context).nats_per_token
    finally:
        model.config = config


def thinned(curve: Curve, points: int = 60) -> Curve:
    """Means over equal stretches of the curve: enough to draw it."""
    size = max(1, len(curve) // points)
    return [
        (round(part[-1][0], 2), round(statistics.mean(loss for _, loss in part), 4))
        for part in (curve[i : i + size] for i in range(0, len(curve), size))
    ]


def shakespeare(text: Path, *, rounds: int, peer_steps: int) -> None:
    """Bar 1: the peer's final loss in a quarter of its wall clock, and at most 1.55 in all of it."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare([str(text)], tokenizer="char", val_fraction=0.1, out=data)
        train_data, val_data = TokenData.open(data, "train"), TokenData.open(data, "val")
        train_ids, val_ids = (torch.from_numpy(d.read(0, d.tokens)) for d in (train_data, val_data))
        results: list[dict[str, float]] = []
        curves: dict[str, Curve] = {}
        for seed in range(rounds):
            peer, peer_curve = nanogpt.train(
                train_ids,
                val_data.index.tokenizer.vocab_size,
                seed=seed,
                steps=peer_steps,
            )
            seconds = peer_curve[-1][0]
            result = {"peer_s": seconds, "peer_loss": nanogpt.evaluate(peer, val_ids)}
            curves.setdefault("peer", thinned(peer_curve))
            shape = dataclasses.replace(SHAKESPEARE, vocab_size=val_data.index.tokenizer.vocab_size)
            for name, budget in (("quarter", seconds / 4), ("whole", seconds)):
                run = Run(shape, data, {**SHAKESPEARE_SETTINGS, "seed": seed})
                curve = run.within(budget)
                result[f"{name}_s"], result[f"{name}_steps"] = curve[-1][0], len(curve)
                result[f"{name}_loss"] = loss_at_context(run.model, val_data, shape.context)
                result[f"{name}_loss_at_64"] = loss_at_context(run.model, val_data, 64)
                curves.setdefault(name, thinned(curve))
            results.append(result)
            print(f"round {seed + 1}: " + ", ".join(f"{k} {v:.4g}" for k, v in result.items()), flush=True)
    figures = {key: record.spread([result[key] for result in results]) for key in results[0]}
    medians = {key: figure["median"] for key, figure in figures.items()}
    reached = statistics.median(r["quarter_loss"] - r["peer_loss"] for r in results) <= 0
    print(
        f"peer: {medians['peer_loss']:.4f} in {medians['peer_s']:.1f} s (medians of {rounds})\n"
        f"{verdict(reached)}: its own loss in a quarter of its wall clock: {medians['quarter_loss']:.4f} in "
        f"{medians['quarter_s']:.1f} s\n"
        f"{verdict(medians['whole_loss'] <= 1.55)}: at most 1.55 in its wall clock: {medians['whole_loss']:.4f} in "
        f"{medians['whole_s']:.1f} s (windows of 64 tokens: {medians['whole_loss_at_64']:.4f})"
    )
    record.append(
        "train",
        {
            "bar": "shakespeare",
            "rounds": rounds,
            "peer_steps": peer_steps,
            "shape": dataclasses.asdict(SHAKESPEARE),
            "settings": SHAKESPEARE_SETTINGS,
            "figures": figures,
            "curves": curves,
        },
    )


def bpe(*, rounds: int, steps: int) -> None:
    """Bar 2: at most 0.67 of the steps that tuned AdamW with a cosine takes to its own final loss."""
    results: list[dict[str, float]] = []
    curves: dict[str, Curve] = {}
    fewer = int(0.67 * steps)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        files = [str(path) for path in standard_library_files()]
        prepare(files, tokenizer="bpe", vocab_size=BPE.vocab_size, val_fraction=0.02, out=data)
        val_data = TokenData.open(data, "val")

        def trained(settings: dict[str, Any], count: int, seed: int) -> tuple[float, Curve]:
            run = Run(BPE, data, {"batch_tokens": BPE_BATCH_TOKENS, **settings, "steps": count, "seed": seed})
            curve = run.all_steps()
            loss = evaluate(run.model, val_data, max_tokens=BPE_VALIDATION_TOKENS, micro_batch=16)
            return loss.nats_per_token, curve

        tried = {lr: trained({**BPE_ADAMW, "lr": lr}, steps, 0) for lr in BPE_ADAMW_RATES}
        best = min(tried, key=lambda lr: tried[lr][0])
        print(", ".join(f"AdamW at {lr:g}: {loss:.4f}" for lr, (loss, _) in tried.items()), flush=True)
        for seed in range(rounds):
            adamw = tried[best] if seed == 0 else trained({**BPE_ADAMW, "lr": best}, steps, seed)
            muon = trained(BPE_MUON, fewer, seed)
            results.append({"adamw_loss": adamw[0], "muon_loss": muon[0]})
            curves.setdefault("adamw", thinned(adamw[1]))
            curves.setdefault("muon", thinned(muon[1]))
            print(f"round {seed + 1}: AdamW {adamw[0]:.4f}, Muon {muon[0]:.4f}", flush=True)
    figures = {key: record.spread([result[key] for result in results]) for key in results[0]}
    hit = statistics.median(r["muon_loss"] - r["adamw_loss"] for r in results) <= 0
    print(
        f"{verdict(hit)}: in {fewer} steps to the loss of AdamW in {steps}: {figures['muon_loss']['median']:.4f} "
        f"against {figures['adamw_loss']['median']:.4f} (medians of {rounds})"
    )
    record.append(
        "train",
        {
            "bar": "bpe",
            "rounds": rounds,
            "steps": {"adamw": steps, "muon": fewer},
            "shape": dataclasses.asdict(BPE),
            "settings": {
                "batch_tokens": BPE_BATCH_TOKENS,
                "adamw": {**BPE_ADAMW, "lr": best},
                "muon": BPE_MUON,
            },
            "adamw_rates": {str(lr): loss for lr, (loss, _) in tried.items()},
            "figures": figures,
            "curves": curves,
        },
    )


def verdict(reached: bool) -> str:
    return "HIT" if reached else "MISS"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    bars = parser.add_subparsers(dest="bar", required=True)
    one = bars.add_parser("shakespeare")
    one.add_argument("text", nargs="?", type=Path, default=Path("../shared/data/tinyshakespeare.txt"))
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument(
        "--peer-steps", type=int, default=nanogpt.STEPS, help="fewer only to try the benchmark out"
    )
    two = bars.add_parser("bpe")
    two.add_argument("--rounds", type=int, default=3)
    two.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    tune_process(torch.device("cpu"))  # for the peer as well: it is of the process
    if arguments.bar == "shakespeare":
        shakespeare(arguments.text, rounds=arguments.rounds, peer_steps=arguments.peer_steps)
    else:
        bpe(rounds=arguments.rounds, steps=arguments.steps)


if __name__ == "__main__":
    main()
