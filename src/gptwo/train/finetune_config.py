"""Settings of a fine-tuning run: those of training, but for the shape, which is the base's, and a few of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from gptwo.base.errors import ConfigError
from gptwo.config import TrainConfig, setting

# Measured at D = 128, and falling with the width as Adam's best rate does: docs/decisions/0011-fine-tuning.md.
FULL_LR_BY_WIDTH = 0.128
LORA_LR_BY_WIDTH = 0.64

# A step of more examples is no better than one of these many tokens, and few examples want many steps.
LARGEST_BATCH_TOKENS = 4096
STEPS_PER_EPOCH = 32

SHAPE = ("n_layer", "n_head", "n_embd", "context")
LORA_TARGETS = ("qkv", "output", "up", "down")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainConfig):
    """Every setting of ``gptwo finetune``: flags and the keys of its TOML file, the same names.

    ``model`` is the base. ``steps`` or ``epochs``, not both. Raises ``ConfigError`` as ``TrainConfig`` does.
    """

    # Several files where training has one folder.
    data: tuple[str, ...] = setting(  # type: ignore[assignment]
        help="JSON lines of prompt and completion, of messages, or of text; text files; or a folder of `gptwo prepare`"
    )
    model: str = setting(help="the base: a checkpoint folder, a run, an adapter, or a hub id")
    val_fraction: float = setting(0.1, help="share of the examples to validate on, chosen by a hash of each")
    epochs: float = setting(3.0, help="passes over the examples; 0 to count --steps instead")
    steps: int = setting(1000, help="optimizer steps, instead of --epochs")
    lora_rank: int | None = setting(
        None, help="train adapters of this rank and nothing else; all weights when not given"
    )
    lora_alpha: float | None = setting(
        None, help="adapters are scaled by alpha / rank; twice the rank when not given"
    )
    lora_dropout: float = setting(0.0, help="dropout of the adapters' inputs")
    lora_targets: str = setting(
        ",".join(LORA_TARGETS), help="the projections that have an adapter, with commas between"
    )
    optimizer: Literal["auto", "adamw", "muon"] = setting(
        "adamw", help="muon: Muon for the blocks' matrices, AdamW for the rest; auto is adamw"
    )
    lr: float | None = setting(
        None,
        help=f"highest learning rate; {FULL_LR_BY_WIDTH} / D for all weights, {LORA_LR_BY_WIDTH} / D for adapters when "
        "not given",
    )
    weight_decay: float | None = setting(0.0, help="AdamW's decay of matrices; biases and norms have none")
    batch_tokens: int | None = setting(  # type: ignore[assignment]
        None,
        help=f"tokens per step, a multiple of the context; when not given {LARGEST_BATCH_TOKENS:,}, or fewer where an "
        f"epoch would have less than {STEPS_PER_EPOCH} steps",
    )
    sample_prompt: str = setting(
        "", help="what the sample at each evaluation goes on from; when not given the first prompt held out"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in SHAPE:
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"{name}={getattr(self, name)} is not possible; the shape is the base's: leave it out"
                )
        if self.lora_rank is None:
            for name in ("lora_alpha", "lora_dropout", "lora_targets"):
                default = type(self).__dataclass_fields__[name].default
                if getattr(self, name) != default:
                    raise ConfigError(
                        f"{name}={getattr(self, name)} is of no use without adapters; leave it out, or give lora_rank"
                    )
        elif self.optimizer == "muon":
            raise ConfigError(
                "optimizer='muon' is not possible with lora_rank: it is for whole matrices; expected 'adamw'"
            )
        if not self.data:
            raise ConfigError("data is empty; expected one file at least")
        if not 0.0 < self.val_fraction < 1.0:
            raise ConfigError(
                f"val_fraction={self.val_fraction} is not possible; expected 0 < val_fraction < 1"
            )
        if not 0.0 <= self.epochs < math.inf:
            raise ConfigError(f"epochs={self.epochs} is not possible; expected a finite number >= 0")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any], *, where: str = "settings") -> Self:
        """As ``TrainConfig.from_mapping``, with the defaults that depend on other settings."""
        values = dict(settings)
        if "model" not in values:
            raise ConfigError(
                f"{where}: the base is missing; give BASE, before --data: a checkpoint folder, a run, an adapter, "
                "or a hub id"
            )
        if isinstance(values.get("data"), list):
            values["data"] = tuple(values["data"])
        if "steps" in values and values.setdefault("epochs", 0.0):
            raise ConfigError(
                f"{where}: steps={values['steps']} and epochs={values['epochs']}; give one of the two"
            )
        return super().from_mapping(values, where=where)

    def to_mapping(self) -> dict[str, Any]:
        return {**super().to_mapping(), "data": list(self.data)}
