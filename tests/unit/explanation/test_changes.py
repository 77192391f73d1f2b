"""What a head or an MLP gives in place of what it gives, by the equations; and what cannot be changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from explained_models import CONFIG, reference, some_tokens, weights_of
from torch import Tensor

from gptwo.base.errors import ConfigError
from gptwo.explanation.edits import Edit, Place, ablations, checked_place, require_as_many
from gptwo.explanation.explanation import trace
from gptwo.explanation.reference import Reference
from gptwo.model import equations
from tolerance import FLOAT64


def by_the_equations(model: Reference, tokens: np.ndarray, changes: dict[Place, Any]) -> Tensor:
    """The logits, one head after the other."""
    weights, epsilon = weights_of(model), model.config.layer_norm_epsilon

    def changed(place: Place, given: Tensor) -> Tensor:
        how = changes.get(place, given)
        if isinstance(how, str):
            return given * 0 if how == "zero" else given.mean(dim=0).repeat(len(given), 1)
        return how

    X = equations.embed(equations.one_hot(torch.from_numpy(tokens), weights.E), weights.E, weights.P)
    M = equations.causal_mask(X)
    for i, block in enumerate(weights.blocks):
        normed = equations.layer_norm(X, block.gamma_1, block.beta_1, epsilon)
        heads = [
            changed(Place(i, h), equations.attention_head(normed, head, M))
            for h, head in enumerate(block.heads)
        ]
        X = X + torch.cat(heads, dim=1) @ block.W_0 + block.b_0
        Y = equations.mlp_sublayer(X, block, epsilon) - X
        X = X + changed(Place(i, "mlp"), Y)
    return equations.unembed(X, weights, epsilon)


HEAD = torch.from_numpy(np.random.default_rng(3).normal(size=(10, CONFIG.head_width)))
WIDE = torch.from_numpy(np.random.default_rng(4).normal(size=(10, CONFIG.n_embd)))
CHANGES: dict[str, dict[Place, Any]] = {
    "a head to zero": {Place(1, 2): "zero"},
    "a head to its mean": {Place(0, 0): "mean"},
    "an MLP to zero": {Place(2, "mlp"): "zero"},
    "an MLP to its mean": {Place(0, "mlp"): "mean"},
    "a head replaced": {Place(2, 1): HEAD},
    "an MLP replaced": {Place(1, "mlp"): WIDE},
    "all at once": {
        Place(0, 1): "mean", Place(0, 2): HEAD, Place(1, "mlp"): "zero", Place(2, 0): "zero", Place(2, "mlp"): WIDE
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_change_is_that_change(changes: dict[Place, Any]) -> None:
    model, tokens = reference(), some_tokens(10)
    found = trace(model, tokens, changes)
    FLOAT64.assert_close(found.logits, by_the_equations(model, tokens, changes), "logits")
    untouched = by_the_equations(model, tokens, {})
    assert (untouched - torch.from_numpy(found.logits)).abs().max() > 1e-3
    for place, how in changes.items():
        if isinstance(how, Tensor):
            name = f"blocks.{place.layer}.{'mlp_output' if place.part == 'mlp' else 'heads'}"
            kept = found[name] if place.part == "mlp" else found[name][place.part]
            assert np.array_equal(kept, how), "what was put there is what is shown there"


def test_edits_become_changes() -> None:
    edits = [(0, 1), (1, "mlp"), (2, 0, "mean"), Edit(1, 2, "mean"), [2, 2]]
    assert ablations(edits, CONFIG) == {
        (0, 1): "zero", (1, "mlp"): "zero", (2, 0): "mean", (1, 2): "mean", (2, 2): "zero"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ((3, 0), "layer=3 is not possible; expected 0 to 2"),
        ((-1, 0), "layer=-1 is not possible; expected 0 to 2"),
        (("0", 0), "layer='0' is not possible"),
        ((True, 0), "layer=True is not possible"),
        ((0.0, 0), "layer=0.0 is not possible"),
        ((0, 3), "head=3 is not possible; expected 0 to 2 or 'mlp'"),
        ((0, "MLP"), "head='MLP' is not possible; expected 0 to 2 or 'mlp'"),
        ((0, None), "head=None is not possible"),
        ((0, 0, "one"), "to='one' is not possible; expected 'zero' or 'mean'"),
        ((0,), "ablate=(0,) is not possible; expected (layer, head)"),
        ((0, 0, "zero", 1), "expected (layer, head)"),
        (0, "ablate=0 is not possible; expected (layer, head)"),
    ],
)
def test_edits_that_cannot_be(edit: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        ablations([edit], CONFIG)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("place", [(), (0,), (0, 0, 0), 4, None])
def test_places_that_cannot_be(place: Any) -> None:
    with pytest.raises(ConfigError, match="names no place; expected"):
        checked_place(place, CONFIG)


def test_a_patch_goes_position_by_position() -> None:
    require_as_many(4, 4)
    with pytest.raises(ConfigError, match="has 3 tokens; expected 4, as many as the first"):
        require_as_many(3, 4)
