"""The learning rate as a function of the step alone."""

from __future__ import annotations

import math

from gptwo.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up from 0 to lr over W steps, then a half cosine from lr down to min_lr at the last step.

    η(s) = lr · (s+1)/(W+1)                                               s < W
    η(s) = min_lr + ½ (lr - min_lr) (1 + cos(π (s - W) / (steps - W)))    s ≥ W
    """
    floor = config.lr / 10 if config.min_lr is None else config.min_lr
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps))
    return floor + 0.5 * (config.lr - floor) * (1.0 + math.cos(math.pi * progress))
