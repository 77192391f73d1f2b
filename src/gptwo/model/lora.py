"""Low-rank adaptation (Hu et al. 2021): y = x Wᵀ + b + (α/r) drop(x) Aᵀ Bᵀ with W and b frozen, A (r×in), B (out×r).

B begins at zero, so an adapted model begins as its base; A begins as peft's does, Kaiming-uniform with a = √5:
U(-1/√in, 1/√in). Nothing but A and B is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config
from gptwo.model.gpt2 import GPT2

if TYPE_CHECKING:
    from jaxtyping import Float

# The four projections of a block, by the names of the command line.
TARGETS = {"qkv": "attention.qkv", "output": "attention.output", "up": "mlp.up", "down": "mlp.down"}


@dataclass(frozen=True)
class LoraConfig:
    """Rank r, α, dropout of the adapter's input, and which projections (keys of ``TARGETS``) have one."""

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] = tuple(TARGETS)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora rank {self.rank} is not possible; expected at least 1")
        if not 0.0 < self.alpha < math.inf:
            raise ConfigError(f"lora alpha {self.alpha} is not possible; expected a finite number > 0")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"lora dropout {self.dropout} is not possible; expected 0 <= dropout < 1")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets:
            got = repr(unknown[0]) if unknown else "none"
            raise ConfigError(f"lora targets: got {got}; expected some of {', '.join(TARGETS)}")

    @property
    def scale(self) -> float:
        """α/r."""
        return self.alpha / self.rank


class LoraLinear(nn.Linear):
    """A projection with its adapter; ``weight`` and ``bias`` are the base's own, frozen, under their old names."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        nn.Module.__init__(self)  # the base's tensors are taken over, none is made in vain
        self.in_features, self.out_features = base.in_features, base.out_features
        base.requires_grad_(False)
        self.weight, self.bias = base.weight, base.bias
        self.scale, self.dropout = config.scale, config.dropout
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(config.rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, config.rank, device=device))

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        low_rank = F.linear(F.dropout(x, self.dropout, self.training), self.lora_A)
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(low_rank, self.lora_B)


def add_lora(model: GPT2, config: LoraConfig, *, seed: int) -> None:
    """Freeze ``model`` and give its projections adapters, in place. ``seed`` decides A on every device alike."""
    model.requires_grad_(False)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    for block in model.blocks:
        for path in (TARGETS[name] for name in TARGETS if name in config.targets):
            owner_name, _, name = path.rpartition(".")
            owner = block.get_submodule(owner_name)
            adapted = LoraLinear(getattr(owner, name), config)
            bound = 1 / math.sqrt(adapted.in_features)
            drawn = torch.empty(adapted.lora_A.shape, device="cpu").uniform_(
                -bound, bound, generator=generator
            )
            with torch.no_grad():
                adapted.lora_A.copy_(drawn)
            setattr(owner, name, adapted)


def adapter_parameters(shape: GPT2Config, config: LoraConfig) -> int:
    """How many parameters ``add_lora`` trains: L · Σ r·(inputs + outputs) over the projections."""
    D, F = shape.n_embd, shape.mlp_width
    sides = {"qkv": 4 * D, "output": 2 * D, "up": D + F, "down": D + F}
    return shape.n_layer * config.rank * sum(sides[name] for name in set(config.targets))


def adapters(model: GPT2) -> Iterator[tuple[str, LoraLinear]]:
    """(name of the projection, module) of every adapter: ``blocks.0.attention.qkv``, ..."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module
