"""Small models that the tests of the model share: odd shapes, weights that use every parameter, a plain cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gptwo.config import GPT2Config
from gptwo.model import GPT2
from tolerance import Tolerance

SMALL: dict[str, GPT2Config] = {
    "one head, one block": GPT2Config(n_layer=1, n_head=1, n_embd=5, context=63, vocab_size=11, dropout=0.0),
    "odd widths": GPT2Config(n_layer=2, n_head=3, n_embd=21, context=65, vocab_size=101, dropout=0.0),
    "head width 1": GPT2Config(n_layer=2, n_head=7, n_embd=7, context=64, vocab_size=29, dropout=0.0),
    "narrow MLP": GPT2Config(
        n_layer=3, n_head=2, n_embd=10, context=64, vocab_size=37, n_inner=7, dropout=0.0
    ),
    "large epsilon": GPT2Config(
        n_layer=2, n_head=4, n_embd=16, context=64, vocab_size=23, layer_norm_epsilon=0.5, dropout=0.0
    ),
}
LONG = GPT2Config(n_layer=2, n_head=2, n_embd=6, context=1024, vocab_size=17, dropout=0.0)
# Every small model at one token, at 63 and at its whole context; the long one at 1024.
CASES: list[Any] = [
    *((config, T) for config in SMALL.values() for T in sorted({1, 63, config.context})),
    (LONG, LONG.context),
]
CASE_IDS = [
    *(f"{name}-T{T}" for name, config in SMALL.items() for T in sorted({1, 63, config.context})),
    "long",
]


def random_model(
    config: GPT2Config, *, dtype: torch.dtype = torch.float64, seed: int = 0, **options: Any
) -> GPT2:
    """Weights with which every parameter matters: biases and gains too, logits and attention far from uniform."""
    model = GPT2(config, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Drawn in float32, so that a float32 and a float64 model of one seed have equal weights.
            drawn = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.3 * drawn)
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * drawn)
            elif "embedding" in name:
                parameter.copy_(drawn)
            else:
                parameter.copy_(1.5 * drawn / math.sqrt(parameter.shape[1]))
    return model


def random_tokens(config: GPT2Config, batch: int, count: int, *, seed: int = 1) -> Tensor:
    """B×T ids, uniform over the vocabulary."""
    return torch.randint(config.vocab_size, (batch, count), generator=torch.Generator().manual_seed(seed))


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter; one without is an error."""
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad
    return found


def assert_gradients_close(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: Tolerance
) -> None:
    """Each parameter's gradient, measured in units of its largest expected value."""
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().double()
        assert scale > 0, f"{name}: the expected gradient is zero, which proves nothing"
        tolerance.assert_close(actual[name].double() / scale, gradient.double() / scale, name)


class PlainCache:
    """The protocol ``gptwo.model.Cache`` in its plainest form: concatenation."""

    lengths = None

    def __init__(self) -> None:
        self.length = 0
        self.k: dict[int, Tensor] = {}
        self.v: dict[int, Tensor] = {}

    def append(self, layer: int, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.k:
            k_BHTK = torch.cat([self.k[layer], k_BHTK], dim=2)
            v_BHTK = torch.cat([self.v[layer], v_BHTK], dim=2)
        self.k[layer], self.v[layer] = k_BHTK, v_BHTK
        return k_BHTK, v_BHTK

    def advance(self, count: int) -> None:
        self.length += count
