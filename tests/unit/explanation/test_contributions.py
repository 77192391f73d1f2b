"""The parts of a logit, by NumPy, and that they are all there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explained_models import CONFIG, reference, some_tokens

from gptwo.base.errors import ConfigError
from gptwo.explanation.edits import Place
from gptwo.explanation.explanation import Explanation, trace
from tolerance import FLOAT64, Tolerance

FLOAT32 = Tolerance(atol=2e-4, rtol=2e-5, why="fp32 activations, added in float64; logits near 30")


def through_the_last_norm(found: Explanation, part: np.ndarray, position: int, token: int) -> float:
    """⟨γ∘(part - mean part) / σ, E_v⟩ with σ of the whole residual stream."""
    x = found["blocks.2.output"][position]
    sigma = np.sqrt(x.var() + CONFIG.layer_norm_epsilon)
    gamma = found.reference.parameters["final_norm.weight"].numpy()
    return float(gamma * (part - part.mean()) / sigma @ found.reference.E[token].numpy())


@pytest.mark.parametrize(("position", "token"), [(0, 0), (5, 100), (12, 57)])
def test_every_part(position: int, token: int) -> None:
    tokens = some_tokens(13)
    found = trace(reference(), tokens)
    parts = found.contributions(position, token)
    parameters = found.reference.parameters

    def expect(part: np.ndarray) -> float:
        return through_the_last_norm(found, part, position, token)

    for layer, head in np.ndindex(CONFIG.n_layer, CONFIG.n_head):
        part = found[f"blocks.{layer}.head_outputs"][head, position]
        FLOAT64.assert_close(parts.heads[layer, head], expect(part), f"head {layer}.{head}")
    for layer in range(CONFIG.n_layer):
        part = found[f"blocks.{layer}.mlp_output"][position]
        FLOAT64.assert_close(parts.mlps[layer], expect(part), f"MLP {layer}")
    FLOAT64.assert_close(parts.token, expect(found.reference.E[int(tokens[position])].numpy()), "token")
    row = parameters["position_embedding.weight"][position].numpy()
    FLOAT64.assert_close(parts.position, expect(row), "position")
    biases = sum(
        expect(parameters[f"blocks.{i}.attention.output.bias"].numpy()) for i in range(CONFIG.n_layer)
    ) + float(parameters["final_norm.bias"].numpy() @ found.reference.E[token].numpy())
    FLOAT64.assert_close(parts.biases, biases, "biases")


CHANGES = {
    "nothing": {},
    "switched off": {Place(0, 1): "zero", Place(2, "mlp"): "mean"},
    "patched": {Place(1, 0): torch.ones(13, CONFIG.head_width, dtype=torch.float64)},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_the_parts_add_up_to_the_logit(changes: dict) -> None:
    found = trace(reference(), some_tokens(13), changes)
    for position, token in ((0, 3), (12, 99)):
        parts = found.contributions(position, token)
        FLOAT64.assert_close(parts.total, found.logits[position, token], "total")
        FLOAT64.assert_close(parts.logit, found.logits[position, token], "logit")
        summed = parts.heads.sum() + parts.mlps.sum() + parts.token + parts.position + parts.biases
        FLOAT64.assert_close(parts.total, summed, "sum")


def test_what_is_switched_off_adds_nothing() -> None:
    found = trace(reference(), some_tokens(13), {Place(1, 2): "zero", Place(0, "mlp"): "zero"})
    parts = found.contributions(-1, 5)
    assert parts.heads[1, 2] == parts.mlps[0] == 0.0
    assert np.count_nonzero(parts.heads) == CONFIG.n_layer * CONFIG.n_head - 1


def test_in_float32() -> None:
    found = trace(reference(dtype=torch.float32), some_tokens(13))
    parts = found.contributions(7, 42)
    FLOAT32.assert_close(parts.total, found.logits[7, 42], "total")


@pytest.mark.parametrize("token", [-1, CONFIG.vocab_size])
def test_a_token_that_there_is_not(token: int) -> None:
    with pytest.raises(ConfigError, match=f"token={token} is not possible; expected 0 to 100"):
        trace(reference(), some_tokens(3)).contributions(0, token)


def test_norms_are_lengths() -> None:
    found = trace(reference(), some_tokens(13), {Place(1, "mlp"): "zero", Place(2, 0): "mean"})
    norms = found.norms()
    L = CONFIG.n_layer
    stream = [*(found[f"blocks.{i}.input"] for i in range(L)), found[f"blocks.{L - 1}.output"]]
    for name, values, parts in (
        ("residual", norms.residual, stream),
        ("attention", norms.attention, [found[f"blocks.{i}.attention_output"] for i in range(L)]),
        ("mlp", norms.mlp, [found[f"blocks.{i}.mlp_output"] for i in range(L)]),
    ):
        FLOAT64.assert_close(values, np.linalg.norm(np.stack(parts), axis=2), name)
