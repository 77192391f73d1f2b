"""Rung 2 of the ladder: gpt2.py equals equations.py and transformers' GPT-2 in logits, loss and every gradient."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptwo.config import PRESETS, GPT2Config
from gptwo.costs import parameter_count
from gptwo.model import GPT2, equations
from model_cases import CASE_IDS, CASES, LONG, assert_gradients_close, gradients, random_model, random_tokens
from tolerance import FLOAT64, Tolerance

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'gptwo[dev]'")

FLOAT32 = Tolerance(
    atol=1e-4,
    rtol=5e-5,
    why="fp32 sums in another order over D <= 21, T <= 1024, V <= 101 through up to 3 blocks; measured: 4e-5",
)
BY_DTYPE = [pytest.param(torch.float64, FLOAT64, id="fp64"), pytest.param(torch.float32, FLOAT32, id="fp32")]
# The released names, written down here a second time: the package has its own table.
RELEASED = {
    r"token_embedding\.weight": "transformer.wte.weight",
    r"position_embedding\.weight": "transformer.wpe.weight",
    r"blocks\.(\d+)\.attention_norm\.(\w+)": r"transformer.h.\1.ln_1.\2",
    r"blocks\.(\d+)\.attention\.qkv\.(\w+)": r"transformer.h.\1.attn.c_attn.\2",
    r"blocks\.(\d+)\.attention\.output\.(\w+)": r"transformer.h.\1.attn.c_proj.\2",
    r"blocks\.(\d+)\.mlp_norm\.(\w+)": r"transformer.h.\1.ln_2.\2",
    r"blocks\.(\d+)\.mlp\.up\.(\w+)": r"transformer.h.\1.mlp.c_fc.\2",
    r"blocks\.(\d+)\.mlp\.down\.(\w+)": r"transformer.h.\1.mlp.c_proj.\2",
    r"final_norm\.(\w+)": r"transformer.ln_f.\1",
}


def released_name(name: str) -> str:
    (match,) = [
        match.expand(theirs) for ours, theirs in RELEASED.items() if (match := re.fullmatch(ours, name))
    ]
    return match


def released_layout(name: str, tensor: Tensor) -> Tensor:
    """Their four projections are stored in×out (Conv1D), ours out×in (Linear)."""
    return tensor.T if re.search(r"(qkv|output|up|down)\.weight", name) else tensor


def released_config(config: GPT2Config) -> Any:
    return transformers.GPT2Config(
        vocab_size=config.vocab_size, n_positions=config.context, n_embd=config.n_embd, n_layer=config.n_layer,
        n_head=config.n_head, n_inner=config.n_inner, layer_norm_epsilon=config.layer_norm_epsilon,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager",
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def released_model(model: GPT2) -> Any:
    """transformers' model with the weights of ours."""
    dtype = model.token_embedding.weight.dtype
    theirs = transformers.GPT2LMHeadModel(released_config(model.config)).to(dtype)
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameters.pop(released_name(name)).copy_(released_layout(name, parameter))
    assert not parameters, f"parameters of theirs that we have not: {sorted(parameters)}"
    return theirs.train()


def run_ours(model: GPT2, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    loss = model.loss(tokens, targets)
    loss.backward()
    return model(tokens), loss, gradients(model)


def equations_logits(parameters: Mapping[str, Tensor], config: GPT2Config, tokens: Tensor) -> Tensor:
    weights = equations.paper_weights(parameters, config.n_layer, config.n_head)
    return torch.stack([equations.forward(row, weights, config.layer_norm_epsilon) for row in tokens])


@pytest.mark.parametrize(("dtype", "tolerance"), BY_DTYPE)
@pytest.mark.parametrize(("config", "T"), CASES, ids=CASE_IDS)
def test_equals_the_equations(config: GPT2Config, T: int, dtype: torch.dtype, tolerance: Tolerance) -> None:
    model = random_model(config, dtype=dtype)
    tokens, targets = random_tokens(config, 2, T), random_tokens(config, 2, T, seed=2)
    logits, loss, ours = run_ours(model, tokens, targets)

    copies = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    expected = equations_logits(copies, config, tokens)
    tolerance.assert_close(logits, expected, "logits")
    expected_loss = torch.stack(
        [equations.cross_entropy(z, y) for z, y in zip(expected, targets, strict=True)]
    ).mean()
    tolerance.assert_close(loss, expected_loss, "loss")
    expected_loss.backward()
    theirs = {name: copy.grad for name, copy in copies.items() if copy.grad is not None}
    assert_gradients_close(ours, theirs, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), BY_DTYPE)
@pytest.mark.parametrize(("config", "T"), CASES, ids=CASE_IDS)
def test_equals_transformers(config: GPT2Config, T: int, dtype: torch.dtype, tolerance: Tolerance) -> None:
    model = random_model(config, dtype=dtype)
    tokens, targets = random_tokens(config, 2, T), random_tokens(config, 2, T, seed=2)
    logits, loss, ours = run_ours(model, tokens, targets)

    released = released_model(model)
    expected = released(tokens).logits
    tolerance.assert_close(logits, expected, "logits")
    # Not their own loss here: it is in float32 whatever the model is in.
    expected_loss = F.cross_entropy(expected.flatten(0, 1), targets.flatten())
    tolerance.assert_close(loss, expected_loss, "loss")
    expected_loss.backward()
    theirs = gradients(released)
    in_our_layout = {name: released_layout(name, theirs[released_name(name)]) for name in ours}
    assert_gradients_close(ours, in_our_layout, tolerance)


def test_loss_equals_the_one_that_transformers_reports() -> None:
    model = random_model(LONG, dtype=torch.float32)
    tokens = random_tokens(LONG, 2, 100)
    expected = released_model(model)(tokens, labels=tokens).loss
    FLOAT32.assert_close(model.loss(tokens[:, :-1], tokens[:, 1:]), expected)


def test_loss_reductions() -> None:
    config = CASES[0][0]
    model = random_model(config)
    tokens, targets = random_tokens(config, 3, 5), random_tokens(config, 3, 5, seed=2)
    each = model.loss(tokens, targets, reduction="none")
    log_probabilities = model(tokens).log_softmax(-1)
    by_hand = [-log_probabilities[b, t, targets[b, t]] for b in range(3) for t in range(5)]
    FLOAT64.assert_close(each, torch.stack(by_hand))
    FLOAT64.assert_close(model.loss(tokens, targets, reduction="sum"), each.sum())
    FLOAT64.assert_close(model.loss(tokens, targets), each.mean())


def test_loss_of_a_low_precision_model_is_taken_in_float32() -> None:
    config = CASES[0][0]
    model = random_model(config, dtype=torch.bfloat16)
    tokens, targets = random_tokens(config, 3, 5), random_tokens(config, 3, 5, seed=2)
    loss = model.loss(tokens, targets)
    assert loss.dtype == torch.float32
    FLOAT32.assert_close(loss, F.cross_entropy(model(tokens).flatten(0, 1).float(), targets.flatten()))


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_published_shapes(size: str, count: int) -> None:
    config = PRESETS[size]
    ours = {name: tuple(p.shape) for name, p in GPT2(config, device="meta").named_parameters()}
    with torch.device("meta"):
        released = transformers.GPT2LMHeadModel(released_config(config))
    theirs = {name: tuple(p.shape) for name, p in released.named_parameters()}
    in_their_layout = {
        released_name(name): tuple(released_layout(name, torch.empty(shape, device="meta")).shape)
        for name, shape in ours.items()
    }
    assert in_their_layout == theirs
    assert sum(p.numel() for p in released.parameters()) == count
    assert parameter_count(config) == count


def test_gpt2_at_full_size() -> None:
    """124M random weights, one forward pass of each."""
    config = PRESETS["gpt2"]
    model = random_model(config, dtype=torch.float32).eval()
    released = released_model(model).eval()
    tokens = random_tokens(config, 1, 13)
    with torch.no_grad():
        logits, expected = model(tokens), released(tokens).logits
    tolerance = Tolerance(
        atol=5e-4, rtol=1e-5, why="fp32, 12 blocks, D=768, logits up to 141; measured: 1e-4"
    )
    tolerance.assert_close(logits, expected)
