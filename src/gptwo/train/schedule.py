"""The learning rate as a function of the step alone."""

from __future__ import annotations

import math

from gptwo.config import TrainConfig


def schedule_factor(step: int, config: TrainConfig) -> float:
    """What every learning rate is multiplied by at step s: linear warm-up over W steps, then down to φ = min_lr / lr.

    f(s) = (s+1) / (W+1)                          s < W
    f(s) = φ + (1 - φ) g(p)                       s ≥ W, p = (s - W) / (steps - W)
    cosine: g = ½ (1 + cos πp)      linear: g = 1 - p
    wsd (warm-up, stable, decay; Hu et al. 2024): g = min(1, (steps - s) / (d · steps)), d = ``decay_fraction``
    """
    warmup, lr = config.resolved("warmup_steps"), config.resolved("lr")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, config.steps - warmup))
    if config.schedule == "linear":
        shape = 1.0 - progress
    elif config.schedule == "wsd":
        decay_steps = config.resolved("decay_fraction") * config.steps
        shape = min(1.0, max(0, config.steps - step) / decay_steps)
    else:
        shape = 0.5 * (1.0 + math.cos(math.pi * progress))
    floor = config.resolved("min_lr") / lr if lr else 0.0
    return floor + (1.0 - floor) * shape


def learning_rate(step: int, config: TrainConfig) -> float:
    """η(s) = lr · f(s), AdamW's; that of Muon is muon_lr · f(s)."""
    return config.resolved("lr") * schedule_factor(step, config)
