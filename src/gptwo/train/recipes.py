"""The settings of optimizer and schedule that a run does not give itself, by the size of its model."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from gptwo.base.errors import ConfigError
from gptwo.config import PRESETS, GPT2Config, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Defaults of ``TrainConfig`` for one optimizer, and models whose blocks have at most ``parameters``."""

    parameters: float
    lr: float
    muon_lr: float | None = None
    schedule: Literal["cosine", "wsd", "linear"]
    decay_fraction: float | None = None
    warmup_steps: int
    weight_decay: float
    beta2: float
    floor: float  # min_lr / lr


def _adamw(parameters: float, lr: float, beta2: float) -> Recipe:
    return Recipe(
        parameters=parameters,
        lr=lr,
        schedule="cosine",
        warmup_steps=100,
        weight_decay=0.1,
        beta2=beta2,
        floor=0.1,
    )


def _muon(parameters: float, lr: float, muon_lr: float, decay_fraction: float) -> Recipe:
    return Recipe(
        parameters=parameters,
        lr=lr,
        muon_lr=muon_lr,
        schedule="wsd",
        decay_fraction=decay_fraction,
        warmup_steps=20,
        weight_decay=0.0,
        beta2=0.95,
        floor=0.0,
    )


# Up to "mini" by measurement, above by the literature: docs/decisions/0012-recipes.md.
RECIPES: dict[str, tuple[Recipe, ...]] = {
    "adamw": (
        _adamw(5e6, 1e-3, 0.99),
        _adamw(2e7, 6e-4, 0.99),
        # The rates of GPT-3 (Brown et al. 2020, table 2.1) for the sizes of GPT-2.
        _adamw(2e8, 6e-4, 0.95),
        _adamw(5e8, 3e-4, 0.95),
        _adamw(1e9, 2.5e-4, 0.95),
        _adamw(math.inf, 2e-4, 0.95),
    ),
    "muon": (
        _muon(1e6, 6e-3, 0.03, 0.7),
        _muon(2e7, 4e-3, 0.02, 0.7),
        # Jordan et al. 2024 for 124M; the larger ones as that.
        _muon(math.inf, 2e-3, 0.02, 0.4),
    ),
}


def recipe(optimizer: str, shape: GPT2Config) -> Recipe:
    """The recipe for a shape, by the parameters of its blocks: those of the embeddings follow from the vocabulary."""
    blocks = 12 * shape.n_layer * shape.n_embd**2
    return next(found for found in RECIPES[optimizer] if blocks <= found.parameters)


def resolve_recipe(config: TrainConfig, shape: GPT2Config) -> TrainConfig:
    """Fill in every setting that is None or "auto" from the recipe of the size; what was given stays.

    ``optimizer="auto"`` is Muon for a fresh model, and AdamW from a checkpoint, whose weights another optimizer made,
    and for sharded weights, since Muon needs whole matrices. ``ConfigError`` for a setting that would have no effect.
    """
    optimizer = config.optimizer
    if optimizer == "auto":
        optimizer = "muon" if config.model in PRESETS and config.parallel == "ddp" else "adamw"
    chosen = recipe(optimizer, shape)
    schedule = chosen.schedule if config.schedule == "auto" else config.schedule
    if config.muon_lr is not None and optimizer != "muon":
        raise ConfigError(
            f"muon_lr={config.muon_lr} is of no use to {optimizer}; leave it out, or set optimizer='muon'"
        )
    if config.decay_fraction is not None and schedule != "wsd":
        raise ConfigError(
            f"decay_fraction={config.decay_fraction} is of no use to {schedule}; leave it out, or set schedule='wsd'"
        )
    filled: dict[str, Any] = {"optimizer": optimizer}
    for name in ("lr", "weight_decay", "beta2", "schedule"):
        if getattr(config, name) in (None, "auto"):
            filled[name] = getattr(chosen, name)
    if config.muon_lr is None and optimizer == "muon":
        filled["muon_lr"] = chosen.muon_lr
    if config.warmup_steps is None:  # a short run must not spend itself on warming up
        filled["warmup_steps"] = min(chosen.warmup_steps, config.steps // 5)
    if config.decay_fraction is None and filled.get("schedule", config.schedule) == "wsd":
        filled["decay_fraction"] = chosen.decay_fraction
    if config.min_lr is None:
        filled["min_lr"] = chosen.floor * (chosen.lr if config.lr is None else config.lr)
    return dataclasses.replace(config, **filled)
