"""GPT-2's initialisation, the same from one seed everywhere, and free on the meta device."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gptwo.config import PRESETS, GPT2Config
from gptwo.model import GPT2, build_model
from tolerance import Tolerance

CONFIG = GPT2Config(n_layer=8, n_head=4, n_embd=64, context=128, vocab_size=500)
# The standard deviation of n draws is off by 1/√(2n) of itself: 1.1% at the smallest matrix, 64×64.
SPREAD = Tolerance(rtol=0.045, why="four standard deviations over at least 4096 draws")
MEAN = Tolerance(
    atol=0.02 * 4 / 64, why="four standard deviations of the mean of at least 4096 draws of N(0, 0.02²)"
)


def test_spread_of_every_parameter() -> None:
    model = build_model(CONFIG, seed=1, device="cpu")
    residual = matrices = 0
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            gain = "norm.weight" in name
            assert torch.equal(parameter, torch.full_like(parameter, float(gain))), name
            continue
        matrices += 1
        into_residual = name.endswith(("attention.output.weight", "mlp.down.weight"))
        residual += into_residual
        # √(2L) = 4 with 8 layers.
        SPREAD.assert_close(parameter.std(), 0.02 / 4 if into_residual else 0.02, name)
        MEAN.assert_close(parameter.mean(), 0.0, name)
    assert (matrices, residual) == (2 + 4 * 8, 2 * 8)


def test_seed_decides_the_weights_and_nothing_else_does() -> None:
    torch.manual_seed(0)
    first = build_model(CONFIG, seed=1, device="cpu").state_dict()
    assert torch.initial_seed() == 0
    untouched = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(untouched, torch.rand(3)), "the global generator was not drawn from"
    torch.manual_seed(99)
    same = build_model(CONFIG, seed=1, device="cpu").state_dict()
    other = build_model(CONFIG, seed=2, device="cpu").state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first if first[name].dim() == 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_seed_means_the_same_weights_in_every_dtype(dtype: torch.dtype) -> None:
    first = build_model(CONFIG, seed=1, device="cpu").state_dict()
    other = build_model(CONFIG, seed=1, device="cpu", dtype=dtype).state_dict()
    assert all(torch.equal(other[name], first[name].to(dtype)) for name in first)


def test_fresh_loss_is_that_of_a_uniform_guess() -> None:
    model = build_model(CONFIG, seed=1, device="cpu").eval()
    tokens = torch.randint(CONFIG.vocab_size, (8, 65), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    uniform = Tolerance(
        atol=0.05, why="logits are LN(x)·E with E of 0.02: a spread of 0.02 √64 = 0.16 around 0"
    )
    uniform.assert_close(loss, math.log(CONFIG.vocab_size))


class _Devices(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen |= {leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)}
        return result


def test_building_on_meta_allocates_nothing() -> None:
    with _Devices() as devices:
        model = GPT2(PRESETS["gpt2-xl"], device="meta")
    assert devices.seen == {"meta"}
    assert sum(p.numel() for p in model.parameters()) == 1_557_611_200
