"""Low-rank adaptation: its equation, what it trains, and where it begins."""

from __future__ import annotations

import math

import pytest
import torch

from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config
from gptwo.model import GPT2, build_model
from gptwo.model.lora import TARGETS, LoraConfig, adapters, add_lora
from tolerance import Tolerance

SHAPE = GPT2Config(n_layer=2, n_head=2, n_embd=8, context=6, vocab_size=13, dropout=0.0)
TOKENS = torch.tensor([[1, 5, 2, 9, 12, 0], [3, 3, 7, 1, 0, 4]])
ROUNDING = Tolerance(atol=1e-6, rtol=1e-5, why="one fp32 sum in two orders")


def adapted(config: LoraConfig, *, seed: int = 0) -> GPT2:
    model = build_model(SHAPE, seed=7, device="cpu").eval()
    add_lora(model, config, seed=seed)
    return model


def test_an_adapted_model_begins_as_its_base() -> None:
    base = build_model(SHAPE, seed=7, device="cpu").eval()
    model = adapted(LoraConfig(rank=3, alpha=6))
    ROUNDING.assert_close(model(TOKENS), base(TOKENS), "logits")
    assert {name for name, _ in adapters(model)} == {
        f"blocks.{i}.{path}" for i in range(2) for path in TARGETS.values()
    }


def test_the_equation() -> None:
    """y = x Wᵀ + b + (α/r) x Aᵀ Bᵀ, and so the model is the one with W + (α/r) B A."""
    model = adapted(LoraConfig(rank=3, alpha=4.5))
    plain = build_model(SHAPE, seed=7, device="cpu").eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, module in adapters(model):
            module.lora_B.normal_(0, 0.3, generator=generator)
            x = torch.randn(4, module.in_features, generator=generator)
            expected = x @ module.weight.T + module.bias + 1.5 * (x @ module.lora_A.T) @ module.lora_B.T
            ROUNDING.assert_close(module(x), expected, name)
            plain.get_submodule(name).weight += 1.5 * module.lora_B @ module.lora_A
        ROUNDING.assert_close(model(TOKENS), plain(TOKENS), "logits")
        assert not torch.allclose(plain(TOKENS), build_model(SHAPE, seed=7, device="cpu").eval()(TOKENS))


def test_only_adapters_have_gradients() -> None:
    model = adapted(LoraConfig(rank=2, alpha=4, targets=("qkv", "down")))
    model.loss(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    for name, parameter in model.named_parameters():
        is_adapter = name.endswith(("lora_A", "lora_B"))
        assert parameter.requires_grad == is_adapter, name
        assert (parameter.grad is not None) == is_adapter, name
    # B is zero at first, so A's gradient is too, and B's is not.
    for name, module in adapters(model):
        assert module.lora_B.grad is not None
        assert module.lora_B.grad.abs().max() > 0, name
    assert len(list(adapters(model))) == 4


def test_where_a_and_b_begin() -> None:
    one, same, other = (adapted(LoraConfig(rank=64, alpha=1), seed=seed) for seed in (0, 0, 1))
    for (_, a), (_, b), (_, c) in zip(adapters(one), adapters(same), adapters(other), strict=True):
        assert torch.equal(a.lora_A, b.lora_A)
        assert not torch.equal(a.lora_A, c.lora_A)
        assert not a.lora_B.any()
        # peft's: kaiming_uniform_(a=√5), whose bound is 1/√in.
        bound = 1 / math.sqrt(a.in_features)
        assert 0.9 * bound < a.lora_A.abs().max() <= bound


def test_dropout_is_on_the_adapter_alone() -> None:
    model = adapted(LoraConfig(rank=2, alpha=2, dropout=0.5))
    base = build_model(SHAPE, seed=7, device="cpu").eval()
    model.train()
    ROUNDING.assert_close(model(TOKENS), base(TOKENS), "logits: B is zero, so nothing that is dropped shows")
    with torch.no_grad():
        for _, module in adapters(model):
            module.lora_B.fill_(0.1)
    torch.manual_seed(0)
    first = model(TOKENS)
    assert not torch.equal(first, model(TOKENS))
    model.eval()
    assert torch.equal(model(TOKENS), model(TOKENS))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"rank": 0, "alpha": 1}, "lora rank 0 is not possible; expected at least 1"),
        ({"rank": 1, "alpha": 0.0}, "lora alpha 0.0 is not possible; expected a finite number > 0"),
        ({"rank": 1, "alpha": math.nan}, "lora alpha nan is not possible"),
        (
            {"rank": 1, "alpha": 1, "dropout": 1.0},
            "lora dropout 1.0 is not possible; expected 0 <= dropout < 1",
        ),
        (
            {"rank": 1, "alpha": 1, "targets": ("c_attn",)},
            "got 'c_attn'; expected some of qkv, output, up, down",
        ),
        ({"rank": 1, "alpha": 1, "targets": ()}, "got none; expected some of qkv"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        LoraConfig(**settings)  # type: ignore[arg-type]
