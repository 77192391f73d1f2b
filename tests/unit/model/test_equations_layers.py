"""Rung 1 of the ladder: §2-§4 and the unembedding, against float64 NumPy loops and cases worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from gptwo.model import equations as eq
from tolerance import FLOAT64, Tolerance

Array = np.ndarray[Any, np.dtype[np.float64]]
EXACT = Tolerance(atol=1e-15, why="a few float64 operations on small integers")
RNG = np.random.default_rng(3)


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64)


# --- the same formulas, row by row in NumPy -------------------------------------------------------------------------


def np_softmax(row: Array) -> Array:
    return np.array([1 / sum(math.exp(b - a) for b in row) for a in row])


def np_layer_norm(X: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    rows = []
    for x in X:
        mean = sum(x) / len(x)
        variance = sum((value - mean) ** 2 for value in x) / len(x)
        rows.append(
            [
                g * (v - mean) / math.sqrt(variance + epsilon) + b
                for v, g, b in zip(x, gamma, beta, strict=True)
            ]
        )
    return np.array(rows)


def np_gelu(x: float) -> float:
    return x / (
        1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    )  # ½(1 + tanh u) = 1/(1 + e^-2u)


def np_head(X: Array, head: dict[str, Array]) -> Array:
    K = head["W_Q"].shape[1]
    Q, Keys, V = (X @ head[f"W_{c}"] + head[f"b_{c}"] for c in "QKV")
    rows = []
    for t in range(len(X)):  # no mask: token t is only shown the tokens 0..t
        scores = np.array([sum(Q[t] * Keys[s]) / math.sqrt(K) for s in range(t + 1)])
        rows.append(sum(w * V[s] for s, w in enumerate(np_softmax(scores))))
    return np.array(rows)


def random_head(D: int, K: int) -> dict[str, Array]:
    return {f"{kind}_{c}": RNG.normal(size=(D, K) if kind == "W" else K) for c in "QKV" for kind in "Wb"}


def random_block(D: int, H: int, F: int) -> tuple[eq.BlockWeights, list[dict[str, Array]], dict[str, Array]]:
    heads = [random_head(D, D // H) for _ in range(H)]
    shapes = {
        "gamma_1": D, "beta_1": D, "W_0": (D, D), "b_0": D,
        "gamma_2": D, "beta_2": D, "W_1": (D, F), "b_1": F, "W_2": (F, D), "b_2": D,
    }  # fmt: skip
    rest = {name: RNG.normal(size=shape) for name, shape in shapes.items()}
    block = eq.BlockWeights(
        heads=[eq.HeadWeights(**{name: tensor(value) for name, value in head.items()}) for head in heads],
        **{name: tensor(value) for name, value in rest.items()},
    )
    return block, heads, rest


# --- §2 -------------------------------------------------------------------------------------------------------------


def test_embedding_by_hand() -> None:
    E = tensor([[1, 2], [3, 4], [5, 6]])
    P = tensor([[10, 20], [30, 40], [50, 60]])
    Delta = eq.one_hot(torch.tensor([2, 0]), E)
    assert Delta.tolist() == [[0, 0, 1], [1, 0, 0]]
    # Row of E for token 2, plus P's row 0; row for token 0, plus P's row 1. P's last row is not used.
    assert eq.embed(Delta, E, P).tolist() == [[15, 26], [31, 42]]


# --- §3 -------------------------------------------------------------------------------------------------------------


def test_causal_mask_by_hand() -> None:
    inf = math.inf
    assert eq.causal_mask(torch.zeros(3, 1)).tolist() == [[0, -inf, -inf], [0, 0, -inf], [0, 0, 0]]
    assert eq.causal_mask(torch.zeros(1, 4)).tolist() == [[0]]


def test_softmax() -> None:
    # e^0 : e^ln2 : e^ln5 = 1 : 2 : 5.
    FLOAT64.assert_close(eq.softmax(tensor([0, math.log(2), math.log(5)])), [1 / 8, 2 / 8, 5 / 8])
    # Large numbers do not overflow, -∞ has probability 0.
    assert eq.softmax(tensor([1000.0, -math.inf, 1000.0])).tolist() == [0.5, 0, 0.5]
    Z = RNG.normal(size=(4, 7)) * 5
    FLOAT64.assert_close(eq.softmax(tensor(Z)), np.array([np_softmax(row) for row in Z]))


def test_attention_by_hand() -> None:
    # K = 4: q·k = 2 ln 3 and √K = 2, so token 1 scores [0, ln 3] and weighs 1/4 and 3/4; token 0 sees itself alone.
    Q_h, K_h = tensor(np.ones((2, 4))), tensor([[0, 0, 0, 0], [math.log(3) / 2] * 4])
    weights = eq.attention_weights(Q_h, K_h, eq.causal_mask(Q_h))
    FLOAT64.assert_close(weights, [[1, 0], [1 / 4, 3 / 4]])
    # One head of width 1 on x = [0, ln 3]: q = 1 (bias), k = x, v = 4 + 4 x / ln 3 = [4, 8].
    head = eq.HeadWeights(
        W_Q=tensor([[0]]), b_Q=tensor([1]), W_K=tensor([[1]]), b_K=tensor([0]),
        W_V=tensor([[4 / math.log(3)]]), b_V=tensor([4]),
    )  # fmt: skip
    X = tensor([[0], [math.log(3)]])
    FLOAT64.assert_close(eq.attention_head(X, head, eq.causal_mask(X)), [[4], [4 / 4 + 8 * 3 / 4]])


@pytest.mark.parametrize(("T", "D", "K"), [(1, 3, 3), (7, 5, 2), (63, 4, 1)])
def test_attention_head(T: int, D: int, K: int) -> None:
    X, head = RNG.normal(size=(T, D)), random_head(D, K)
    weights = eq.HeadWeights(**{name: tensor(value) for name, value in head.items()})
    FLOAT64.assert_close(eq.attention_head(tensor(X), weights, eq.causal_mask(tensor(X))), np_head(X, head))


def test_multi_head_attention_concatenates_in_order() -> None:
    block, heads, rest = random_block(D=6, H=3, F=5)
    X = RNG.normal(size=(5, 6))
    A = np.concatenate([np_head(X, head) for head in heads], axis=1)
    FLOAT64.assert_close(eq.multi_head_attention(tensor(X), block), A @ rest["W_0"] + rest["b_0"])


# --- §4 -------------------------------------------------------------------------------------------------------------


def test_layer_norm_by_hand() -> None:
    # Mean 2, variance 1, ε = 3: (x - 2)/2 = [-½, ½]; gains 10 and 20, shifts 1 and 2.
    normed = eq.layer_norm(tensor([[1, 3]]), tensor([10, 20]), tensor([1, 2]), epsilon=3.0)
    assert normed.tolist() == [[-4, 12]]


def test_layer_norm() -> None:
    X, gamma, beta = RNG.normal(size=(4, 9)) * 3 + 1, RNG.normal(size=9), RNG.normal(size=9)
    expected = np_layer_norm(X, gamma, beta, 1e-5)
    FLOAT64.assert_close(eq.layer_norm(tensor(X), tensor(gamma), tensor(beta), 1e-5), expected)


def test_gelu() -> None:
    # The tanh form differs from the exact one, ½x(1 + erf(x/√2)), in the fourth decimal: 0.841192 and not 0.841345.
    six_decimals = Tolerance(atol=5e-7, why="known values written to six decimals")
    six_decimals.assert_close(eq.gelu(tensor([0, 1, -1, 3])), [0, 0.841192, -0.158808, 2.996363])
    Z = np.linspace(-8, 8, 101)
    FLOAT64.assert_close(eq.gelu(tensor(Z)), [np_gelu(z) for z in Z])


def test_sublayers() -> None:
    block, heads, rest = random_block(D=6, H=2, F=11)
    X = RNG.normal(size=(5, 6))
    normed = np_layer_norm(X, rest["gamma_1"], rest["beta_1"], 1e-3)
    A = np.concatenate([np_head(normed, head) for head in heads], axis=1)
    FLOAT64.assert_close(eq.attention_sublayer(tensor(X), block, 1e-3), X + A @ rest["W_0"] + rest["b_0"])

    hidden = np_layer_norm(X, rest["gamma_2"], rest["beta_2"], 1e-3) @ rest["W_1"] + rest["b_1"]
    expected = X + np.vectorize(np_gelu)(hidden) @ rest["W_2"] + rest["b_2"]
    FLOAT64.assert_close(eq.mlp_sublayer(tensor(X), block, 1e-3), expected)


# --- §5 and the whole -----------------------------------------------------------------------------------------------


def test_forward_is_the_chain_of_its_parts() -> None:
    V, D, C, epsilon = 7, 6, 9, 1e-4
    E, P, gamma, beta = (RNG.normal(size=shape) for shape in ((V, D), (C, D), D, D))
    blocks = [random_block(D, H, F=5) for H in (1, 3)]
    tokens = np.array([3, 3, 0, 6])
    X = E[tokens] + P[:4]
    for _, heads, rest in blocks:
        normed = np_layer_norm(X, rest["gamma_1"], rest["beta_1"], epsilon)
        X = X + np.concatenate([np_head(normed, h) for h in heads], axis=1) @ rest["W_0"] + rest["b_0"]
        hidden = np_layer_norm(X, rest["gamma_2"], rest["beta_2"], epsilon) @ rest["W_1"] + rest["b_1"]
        X = X + np.vectorize(np_gelu)(hidden) @ rest["W_2"] + rest["b_2"]
    logits = np_layer_norm(X, gamma, beta, epsilon) @ E.T
    weights = eq.Weights(tensor(E), tensor(P), [b for b, _, _ in blocks], tensor(gamma), tensor(beta))
    FLOAT64.assert_close(eq.forward(torch.tensor(tokens), weights, epsilon), logits)


def test_cross_entropy_by_hand() -> None:
    # Probabilities 1/4, 3/4 and 1/2, 1/2: the mean of -ln ¾ and -ln ½.
    logits = tensor([[0, math.log(3)], [5, 5]])
    loss = eq.cross_entropy(logits, torch.tensor([1, 0]))
    EXACT.assert_close(loss, (math.log(4 / 3) + math.log(2)) / 2)
