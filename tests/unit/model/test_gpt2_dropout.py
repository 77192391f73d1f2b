"""Dropout at its four places and at its rate; activation checkpointing changes memory and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gptwo.config import GPT2Config
from gptwo.model import GPT2
from model_cases import SMALL, gradients, random_model, random_tokens
from tolerance import Tolerance

CONFIG = SMALL["odd widths"]
DROPPED = replace(CONFIG, dropout=0.25)
# 4 standard deviations of the share of 10,000 coin flips at p = 1/4 (√(p (1 - p) / n) = 0.0043).
KEEP_RATE = Tolerance(atol=0.0173, why="four standard deviations over 10,000 draws")
SCALED = Tolerance(atol=1e-12, rtol=1e-12, why="float64, one multiplication by 1/(1 - p)")


def test_eval_has_none_and_train_has() -> None:
    plain, model = random_model(CONFIG), random_model(DROPPED)
    tokens = random_tokens(CONFIG, 2, 9)
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens), plain(tokens))
        torch.manual_seed(0)
        first = model.train()(tokens)
        second = model(tokens)
        torch.manual_seed(0)
        again = model(tokens)
    assert not torch.allclose(first, plain(tokens))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def assert_dropped(dropped: torch.Tensor, whole: torch.Tensor) -> None:
    """A quarter is 0 and the rest is the value without dropout over ¾, so that the mean stays."""
    kept = dropped != 0
    assert whole.count_nonzero() == whole.numel()
    assert whole.numel() >= 10_000
    KEEP_RATE.assert_close(kept.double().mean(), 0.75)
    SCALED.assert_close(dropped[kept], whole[kept] / 0.75)


def test_the_outputs_of_both_sublayers_are_dropped() -> None:
    block = random_model(DROPPED).blocks[0].train()
    x_BTD = torch.randn(
        500, 1, DROPPED.n_embd, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )
    projections: list[torch.Tensor] = []
    for projection in (block.attention.output, block.mlp.down):
        projection.register_forward_hook(lambda _, __, output: projections.append(output))
    torch.manual_seed(0)
    with torch.no_grad():
        dropped = [block.attention(x_BTD, 0, None), block.mlp(x_BTD)]
    for after, before in zip(dropped, projections, strict=True):
        assert_dropped(after, before)


def test_attention_weights_are_dropped() -> None:
    """With one token the only weight is 1: a whole head's value is 0 or is scaled."""
    config = replace(SMALL["head width 1"], dropout=0.25)
    attention = random_model(config).blocks[0].attention
    seen: list[torch.Tensor] = []
    attention.output.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x_BTD = torch.randn(
        1500, 1, config.n_embd, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )
    torch.manual_seed(0)
    with torch.no_grad():
        attention.eval()(x_BTD, 0, None)
        attention.train()(x_BTD, 0, None)
    whole, dropped = seen
    assert_dropped(dropped, whole)


def test_embeddings_are_dropped() -> None:
    model = random_model(DROPPED)
    seen: list[torch.Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tokens = random_tokens(DROPPED, 10, 60)
    torch.manual_seed(0)
    with torch.no_grad():
        model.eval()(tokens)
        model.train()(tokens)
    whole, dropped = seen
    assert_dropped(dropped, whole)


def trained_once(config: GPT2Config, *, checkpoint_activations: bool) -> tuple[GPT2, torch.Tensor, int]:
    """The model after one backward pass, its loss, and how often a block's MLP ran."""
    model = random_model(config, checkpoint_activations=checkpoint_activations).train()
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    model.blocks[0].mlp.register_forward_pre_hook(count)
    torch.manual_seed(0)
    loss = model.loss(random_tokens(config, 2, 9), random_tokens(config, 2, 9, seed=2))
    loss.backward()
    return model, loss, calls


@pytest.mark.parametrize("config", [CONFIG, DROPPED], ids=["without dropout", "with dropout"])
def test_activation_checkpointing_computes_twice_and_equals(config: GPT2Config) -> None:
    plain, plain_loss, plain_calls = trained_once(config, checkpoint_activations=False)
    model, loss, calls = trained_once(config, checkpoint_activations=True)
    assert (plain_calls, calls) == (1, 2)
    assert torch.equal(loss, plain_loss)
    expected = gradients(plain)
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, expected[name]), name
