from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config, TrainConfig
from gptwo.model import build_model
from gptwo.train.muon import POLAR_EXPRESS, Muon, orthogonalise
from gptwo.train.optimizer import build_optimizer, muon_groups
from gptwo.train.recipes import resolve_recipe
from tolerance import Tolerance

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5  # torch.optim.Muon's own
FP32 = Tolerance(
    atol=5e-4,
    why="fp32 against float64: five iterations lift the smallest singular values, and rounding, 1,000-fold",
)
BF16 = Tolerance(atol=0.05, why="torch iterates in bf16, eight bits, and five iterations amplify them")
CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=8, vocab_size=31, dropout=0.0)


def settings(**changes: object) -> TrainConfig:
    return resolve_recipe(TrainConfig(data="d", out="o", optimizer="muon", **changes), CONFIG)  # type: ignore[arg-type]


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_orthogonal(gradient: Tensor, coefficients: tuple[tuple[float, float, float], ...]) -> Tensor:
    """The definition, one matrix, in float64, on the singular values: σ ← aσ + bσ³ + cσ⁵."""
    u, sigma, v = torch.linalg.svd(gradient.double(), full_matrices=False)
    sigma = sigma / (1.01 * sigma.norm())
    for a, b, c in coefficients:
        sigma = a * sigma + b * sigma**3 + c * sigma**5
    return u @ torch.diag(sigma) @ v


@pytest.mark.parametrize("coefficients", [JORDAN, POLAR_EXPRESS])
@pytest.mark.parametrize("shape", [(5, 24, 24), (2, 16, 48), (3, 1, 7)])
def test_orthogonalise_is_its_polynomials_of_the_singular_values(
    shape: tuple[int, int, int], coefficients: tuple[tuple[float, float, float], ...]
) -> None:
    batch = matrix(*shape)
    expected = torch.stack([plain_orthogonal(one, coefficients) for one in batch])
    FP32.assert_close(orthogonalise(batch, coefficients), expected.float(), "orthogonalised")


def test_polar_express_brings_all_but_the_smallest_singular_values_near_1() -> None:
    sigma = torch.logspace(-2, 0, 40)
    ended = orthogonalise(torch.diag(sigma)[None] / 1.01, POLAR_EXPRESS)[0].diag()
    # Scaled by its own norm, so that what counts is where the smallest lies: above 0.01 of the norm.
    kept = sigma / (1.01 * sigma.norm()) >= 0.01
    assert int(kept.sum()) > 20
    assert float((ended[kept] - 1).abs().max()) < 0.27


def test_a_gradient_of_zeros_moves_nothing() -> None:
    assert torch.equal(orthogonalise(torch.zeros(2, 8, 8), POLAR_EXPRESS), torch.zeros(2, 8, 8))


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16)])
def test_the_update_is_that_of_torch(shape: tuple[int, int]) -> None:
    ours, theirs = (torch.nn.Parameter(matrix(*shape)) for _ in range(2))
    mine = Muon(
        [{"params": [ours], "pieces": 1, "weight_decay": 0.1}],
        lr=0.02,
        betas=(0.9, 0.95),
        coefficients=JORDAN,
    )
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(1, 4):
        before = ours.detach().clone()
        ours.grad = matrix(*shape, seed=step)
        theirs.grad = ours.grad.clone()
        mine.step()
        other.step()
        moved, expected = ((p.detach() - before) / 0.02 for p in (ours, theirs))
        Tolerance(rtol=0.05, why="bf16").assert_close(moved.norm(), expected.norm(), "length of the update")
        BF16.assert_close(moved, expected, f"update {step}")
        torch.testing.assert_close(
            mine.state[ours]["momentum_buffer"], other.state[theirs]["momentum_buffer"]
        )
        theirs.data.copy_(ours.data)


def test_q_k_and_v_are_orthogonalised_each_by_itself() -> None:
    model = build_model(CONFIG, seed=1, device="cpu")
    optimizer = build_optimizer(model, settings(muon_lr=0.01, weight_decay=0.0))
    weight = model.blocks[0].attention.qkv.weight
    before = weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    weight.grad = matrix(48, 16)
    optimizer.step()
    for moved in ((before - weight.detach()) / 0.01).chunk(3):
        singular = torch.linalg.svdvals(moved)
        assert float(singular.max()) < 1.4
        assert float(singular.median()) > 0.6


def test_muon_has_the_blocks_matrices_and_adamw_the_rest() -> None:
    model = build_model(CONFIG, seed=1, device="cpu")
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    groups = muon_groups(model, settings())
    by_muon = {name_of[p] for group in groups if group.get("pieces") for p in group["params"]}
    by_adamw = {name_of[p] for group in groups if not group.get("pieces") for p in group["params"]}
    matrices = ("attention.qkv", "attention.output", "mlp.up", "mlp.down")
    assert by_muon == {f"blocks.{layer}.{what}.weight" for layer in range(2) for what in matrices}
    assert by_muon | by_adamw == set(name_of.values())
    assert not by_muon & by_adamw


def test_what_is_not_muons_moves_as_under_adamw() -> None:
    moved = []
    for name in ("muon", "adamw"):
        model = build_model(CONFIG, seed=1, device="cpu")
        config = resolve_recipe(
            TrainConfig(data="d", out="o", optimizer=name, lr=1e-2, beta2=0.9, weight_decay=0.1),  # type: ignore[arg-type]
            CONFIG,
        )
        optimizer = build_optimizer(model, config)
        for _ in range(3):
            optimizer.zero_grad()
            tokens = torch.arange(16).view(2, 8)
            # Of the embeddings and norms alone, so that the blocks, which differ, do not enter.
            model.final_norm(model.token_embedding(tokens)).square().sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        moved.append([model.token_embedding.weight, model.final_norm.weight, model.final_norm.bias])
    for one, other in zip(*moved, strict=True):
        assert torch.equal(one, other)


def test_frozen_parameters_take_no_part() -> None:
    model = build_model(CONFIG, seed=1, device="cpu")
    model.blocks[0].requires_grad_(False)
    model.token_embedding.requires_grad_(False)
    for name in ("muon", "adamw"):
        config = resolve_recipe(TrainConfig(data="d", out="o", optimizer=name), CONFIG)  # type: ignore[arg-type]
        groups = build_optimizer(model, config).param_groups
        assert {p for group in groups for p in group["params"]} == {
            p for p in model.parameters() if p.requires_grad
        }


def test_sharded_weights_are_refused() -> None:
    model = build_model(CONFIG, seed=1, device="cpu")
    model.final_norm.bias.placements = ()  # type: ignore[assignment] # what tells a DTensor
    with pytest.raises(ConfigError, match="sharded"):
        muon_groups(model, settings())
