"""Every named tensor against the paper's equations, which compute one head at a time and know no names."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from explained_models import CONFIG, reference, some_tokens, weights_of
from torch import Tensor

from gptwo.explanation.explanation import trace
from gptwo.explanation.reference import Reference, tensor_names
from gptwo.model import equations
from model_cases import SMALL
from tolerance import FLOAT64, Tolerance

FLOAT32 = Tolerance(atol=2e-4, rtol=2e-5, why="fp32 over 3 layers, logits near 30; sums in another order")


def by_the_equations(model: Reference, tokens: np.ndarray) -> Mapping[str, Tensor]:
    """Every tensor by its name, written from ``equations.py`` alone."""
    weights, epsilon = weights_of(model), model.config.layer_norm_epsilon
    X = equations.embed(equations.one_hot(torch.from_numpy(tokens), weights.E), weights.E, weights.P)
    M = equations.causal_mask(X)
    found = {"embedding": X}
    for i, block in enumerate(weights.blocks):
        found[f"blocks.{i}.input"] = X
        normed = equations.layer_norm(X, block.gamma_1, block.beta_1, epsilon)
        found[f"blocks.{i}.attention_norm"] = normed
        per_head: dict[str, list[Tensor]] = {
            name: [] for name in ("q", "k", "v", "scores", "attention", "heads", "head_outputs")
        }
        for head, W_0_h in zip(block.heads, block.W_0.chunk(len(block.heads), dim=0), strict=True):
            Q, K = normed @ head.W_Q + head.b_Q, normed @ head.W_K + head.b_K
            A = equations.attention_head(normed, head, M)
            for name, value in (
                ("q", Q),
                ("k", K),
                ("v", normed @ head.W_V + head.b_V),
                ("scores", Q @ K.T / math.sqrt(Q.shape[1])),
                ("attention", equations.attention_weights(Q, K, M)),
                ("heads", A),
                ("head_outputs", A @ W_0_h),
            ):
                per_head[name].append(value)
        found |= {f"blocks.{i}.{name}": torch.stack(values) for name, values in per_head.items()}
        found[f"blocks.{i}.attention_output"] = equations.multi_head_attention(normed, block)
        middle = found[f"blocks.{i}.middle"] = equations.attention_sublayer(X, block, epsilon)
        normed = found[f"blocks.{i}.mlp_norm"] = equations.layer_norm(
            middle, block.gamma_2, block.beta_2, epsilon
        )
        up = found[f"blocks.{i}.mlp_up"] = normed @ block.W_1 + block.b_1
        found[f"blocks.{i}.mlp_gelu"] = equations.gelu(up)
        X = found[f"blocks.{i}.output"] = equations.mlp_sublayer(middle, block, epsilon)
        found[f"blocks.{i}.mlp_output"] = X - middle
    found["final_norm"] = equations.layer_norm(X, weights.gamma, weights.beta, epsilon)
    found["logits"] = equations.unembed(X, weights, epsilon)
    return found


@pytest.mark.parametrize("T", [1, 2, 65])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)], ids=["fp64", "fp32"]
)
def test_every_tensor_is_that_of_the_equations(dtype: torch.dtype, tolerance: Tolerance, T: int) -> None:
    tokens = some_tokens(T)
    explanation = trace(reference(dtype=dtype), tokens)
    expected = by_the_equations(reference(), tokens)
    assert list(explanation) == tensor_names(CONFIG)
    assert set(explanation) == set(expected)
    for name, value in explanation.items():
        tolerance.assert_close(value, expected[name], name)


@pytest.mark.parametrize("name", SMALL)
def test_every_shape_of_model(name: str) -> None:
    model = reference(SMALL[name])
    tokens = some_tokens(9, SMALL[name])
    expected = by_the_equations(model, tokens)
    for tensor, value in trace(model, tokens).items():
        FLOAT64.assert_close(value, expected[tensor], tensor)
