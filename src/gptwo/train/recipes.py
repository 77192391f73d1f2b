"""The settings of optimizer and schedule that a run does not give itself, by the size of its model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from gptwo.config import PRESETS, GPT2Config, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Defaults of ``TrainConfig`` for one optimizer and models up to a size."""

    lr: float
    muon_lr: float
    warmup_steps: int
    weight_decay: float
    beta2: float
    schedule: Literal["cosine", "wsd", "linear"]
    # min_lr / lr
    floor: float
    decay_fraction: float = 0.7


_ADAMW = Recipe(
    lr=1e-3, muon_lr=0.0, warmup_steps=100, weight_decay=0.1, beta2=0.99, schedule="cosine", floor=0.1
)
_MUON = Recipe(
    lr=6e-3, muon_lr=0.03, warmup_steps=20, weight_decay=0.0, beta2=0.95, schedule="wsd", floor=0.0
)


def recipe(optimizer: Literal["adamw", "muon"], shape: GPT2Config) -> Recipe:
    """The recipe for a shape: by its parameters without the embeddings, which the vocabulary decides."""
    return _MUON if optimizer == "muon" else _ADAMW


def resolve_recipe(config: TrainConfig, shape: GPT2Config) -> TrainConfig:
    """Fill in every setting that is None or "auto" from the recipe of the size; what was given stays.

    ``optimizer="auto"`` is Muon for a fresh model, and AdamW from a checkpoint, whose weights another optimizer made,
    and for sharded weights, since Muon needs whole matrices.
    """
    optimizer = config.optimizer
    if optimizer == "auto":
        optimizer = "muon" if config.model in PRESETS and config.parallel == "ddp" else "adamw"
    chosen = recipe(optimizer, shape)
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
