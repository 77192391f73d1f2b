from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tolerance import Tolerance
from torch import Tensor

from gptwo.config import GPT2Config, TrainConfig
from gptwo.model import GPT2, build_model
from gptwo.model.head import NOT_PREDICTED
from gptwo.train.optimizer import build_optimizer, optimizer_tensors, parameter_groups, restore_optimizer
from gptwo.train.recipes import resolve_recipe
from gptwo.train.step import optimizer_step, seed_step

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=8, vocab_size=31, dropout=0.0)
SETTINGS = resolve_recipe(TrainConfig(data="d", out="o", optimizer="adamw", lr=1e-2), CONFIG)
SUM_ORDER = Tolerance(atol=1e-6, why="fp32, the same sum over 48 tokens in another order")


def model_and_batch() -> tuple[GPT2, Tensor, Tensor]:
    model = build_model(CONFIG, seed=1, device="cpu").train()
    drawn = torch.randint(31, (6, 9), generator=torch.Generator().manual_seed(2))
    return model, drawn[:, :-1], drawn[:, 1:]


def loss_sum_of(model: GPT2) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda tokens, targets: model.loss(tokens, targets, reduction="sum")


@pytest.mark.parametrize("sizes", [[1] * 6, [2, 2, 2], [4, 2], [5, 1]])
def test_micro_batches_of_any_sizes_are_one_batch(sizes: list[int]) -> None:
    results = []
    for cut in ([6], sizes):
        model, tokens, targets = model_and_batch()
        parts = zip(tokens.split(cut), targets.split(cut), strict=True)
        result = optimizer_step(
            model,
            loss_sum_of(model),
            torch.optim.SGD(model.parameters(), lr=0.1),
            parts,
            predicted_tokens=48,
            lr_factor=1.0,
            grad_clip=0.0,
        )
        results.append((result, [p.detach().clone() for p in model.parameters()]))
    (whole, whole_weights), (cut_up, cut_weights) = results
    SUM_ORDER.assert_close(cut_up.loss, whole.loss, "loss")
    SUM_ORDER.assert_close(cut_up.gradient_norm, whole.gradient_norm, "gradient norm")
    for one, other in zip(cut_weights, whole_weights, strict=True):
        SUM_ORDER.assert_close(one, other, "weights after the step")


def test_loss_is_the_mean_over_all_predicted_tokens() -> None:
    model, tokens, targets = model_and_batch()
    expected = model.loss(tokens, targets)
    result = optimizer_step(
        model,
        loss_sum_of(model),
        build_optimizer(model, SETTINGS),
        [(tokens[:1], targets[:1]), (tokens[1:], targets[1:])],
        predicted_tokens=48,
        lr_factor=0.0,
        grad_clip=1.0,
    )
    SUM_ORDER.assert_close(result.loss, expected)


@settings(max_examples=12)
@given(
    predicted=st.lists(st.integers(0, 8), min_size=6, max_size=6).filter(any),
    cuts=st.sets(st.integers(1, 5)),
    head_alone=st.booleans(),
)
def test_rows_of_unequal_targets_weigh_by_their_targets(
    predicted: list[int], cuts: set[int], head_alone: bool
) -> None:
    """One batch, however it is cut and however few targets a part has (none at all included), is one loss."""
    results = []
    bounds = [0, *sorted(cuts), 6]
    for cut in ([6], [last - first for first, last in pairwise(bounds)]):
        model, tokens, targets = model_and_batch()
        targets = targets.clone()
        for row, kept in enumerate(predicted):
            targets[row, slice(kept, None) if head_alone else slice(0, 8 - kept)] = NOT_PREDICTED
        mean = float(model.loss(tokens, targets).detach())  # over what is predicted
        result = optimizer_step(
            model,
            loss_sum_of(model),
            torch.optim.SGD(model.parameters(), lr=0.0),
            zip(tokens.split(cut), targets.split(cut), strict=True),
            predicted_tokens=sum(predicted),
            lr_factor=1.0,
            grad_clip=0.0,
        )
        assert result.loss == pytest.approx(mean, rel=1e-6)
        results.append((result, [p.grad for p in model.parameters()]))
    (whole, whole_gradients), (cut_up, cut_gradients) = results
    assert cut_up.loss == pytest.approx(whole.loss, rel=1e-6)
    for one, other in zip(cut_gradients, whole_gradients, strict=True):
        assert one is not None
        assert other is not None
        SUM_ORDER.assert_close(one, other, "gradient")


def test_clipping_bounds_the_norm_and_reports_the_one_before() -> None:
    model, tokens, targets = model_and_batch()
    before = [p.detach().clone() for p in model.parameters()]
    limit = 0.01
    result = optimizer_step(
        model,
        loss_sum_of(model),
        torch.optim.SGD(model.parameters(), lr=1.0),
        [(tokens, targets)],
        predicted_tokens=48,
        lr_factor=1.0,
        grad_clip=limit,
    )
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert float(result.gradient_norm) > limit
    Tolerance(rtol=1e-3, why="the clip divides by norm + 1e-6, fp32").assert_close(moved.norm(), limit)


def test_matrices_and_embeddings_decay_biases_and_gains_do_not() -> None:
    model, _, _ = model_and_batch()
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    decaying, exempt = parameter_groups(model, 0.1)
    assert decaying["weight_decay"] == 0.1
    assert exempt["weight_decay"] == 0.0
    exempt_names = {name_of[p] for p in exempt["params"]}
    assert exempt_names == {n for n in name_of.values() if n.endswith("bias") or "norm" in n}
    assert {name_of[p] for p in decaying["params"]} == set(name_of.values()) - exempt_names


def test_the_factor_multiplies_each_groups_own_learning_rate() -> None:
    model, tokens, targets = model_and_batch()
    first, *others = model.parameters()
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": others}], lr=0.1)
    for factor in (0.5, 0.25):  # of what the group was built with, not of the last step's
        optimizer_step(
            model,
            loss_sum_of(model),
            optimizer,
            [(tokens, targets)],
            predicted_tokens=48,
            lr_factor=factor,
            grad_clip=1.0,
        )
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * factor, 0.1 * factor]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizer_state_survives_its_tensors_bit_for_bit(name: str) -> None:
    settings = resolve_recipe(TrainConfig(data="d", out="o", optimizer=name), CONFIG)  # type: ignore[arg-type]

    def after(steps_before: int, steps_after: int) -> list[Tensor]:
        model, tokens, targets = model_and_batch()
        optimizer = build_optimizer(model, settings)

        def step() -> None:
            batch = [(tokens, targets)]
            optimizer_step(
                model, loss_sum_of(model), optimizer, batch, predicted_tokens=48, lr_factor=1.0, grad_clip=1.0
            )

        for _ in range(steps_before):
            step()
        if steps_after:
            kept = {name: value.clone() for name, value in optimizer_tensors(model, optimizer).items()}
            optimizer = build_optimizer(model, settings)
            restore_optimizer(model, optimizer, kept)
        for _ in range(steps_after):
            step()
        return [p.detach() for p in model.parameters()]

    for resumed, whole in zip(after(2, 2), after(4, 0), strict=True):
        assert torch.equal(resumed, whole)


def test_randomness_of_a_step_follows_from_seed_and_step_alone() -> None:
    def drawn(seed: int, step: int) -> list[float]:
        torch.rand(5)  # whatever happened before does not matter
        seed_step(seed, step)
        return torch.rand(3).tolist()

    assert drawn(1, 7) == drawn(1, 7)
    assert drawn(1, 7) != drawn(1, 8)
    assert drawn(1, 7) != drawn(2, 7)
