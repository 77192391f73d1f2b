"""Rung 1 of the ladder: §5's sampling steps, by hand at their edges and against a plain search on random logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from gptwo.model import equations as eq
from tolerance import FLOAT64

INF = math.inf
RNG = np.random.default_rng(4)


def tensor(values: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=dtype)


def kept(logits: torch.Tensor) -> list[int]:
    return [i for i, z in enumerate(logits.tolist()) if z != -INF]


def test_temperature_by_hand() -> None:
    assert eq.temperature(tensor([2, -4, 1]), 2.0).tolist() == [1, -2, 0.5]
    # 1 : 3 becomes 1 : 9 at τ = ½.
    FLOAT64.assert_close(eq.next_token_distribution(tensor([0, math.log(3)]), tau=0.5), [0.1, 0.9])


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [-INF, 3, 3, -INF]),  # the two largest are equal: both reach the first largest, both stay
        (2, [-INF, 3, 3, -INF]),
        (3, [-INF, 3, 3, 2]),
        (4, [1, 3, 3, 2]),
        (99, [1, 3, 3, 2]),  # more than there are: all
    ],
)
def test_top_k_by_hand(k: int, expected: list[float]) -> None:
    assert eq.top_k(tensor([1, 3, 3, 2]), k).tolist() == expected


# Probabilities ½, ¼, ⅛, ⅛ of the tokens 3, 0, 2, 1.
FALLING = [math.log(2), 0, 0, math.log(4)]


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (1e-30, [3]),  # always one, however small p is
        (0.49, [3]),
        (0.51, [0, 3]),
        (0.74, [0, 3]),
        (0.76, [0, 1, 3]),  # of two equal ones that are not both needed, the first
        (0.88, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_top_p_by_hand(p: float, expected: list[int]) -> None:
    logits = tensor(FALLING)
    result = eq.top_p(logits, p)
    assert kept(result) == expected
    assert torch.equal(result[expected], logits[expected])


def test_top_p_reaches_p_exactly() -> None:
    # Four equal tokens of ¼ are exact in floating point: two of them reach ½, and no third is needed.
    assert kept(eq.top_p(tensor([0, 0, 0, 0]), 0.5)) == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_p_of_1_keeps_every_token_however_improbable(dtype: torch.dtype) -> None:
    # e^-60 = 9e-27 vanishes in any sum with 1.
    assert kept(eq.top_p(tensor([0, -60, -80], dtype), 1.0)) == [0, 1, 2]


def test_top_p_leaves_what_is_already_excluded() -> None:
    assert kept(eq.top_p(tensor([0, -INF, 0]), 1.0)) == [0, 2]


@pytest.mark.parametrize("seed", range(20))
def test_top_k_and_top_p_on_random_logits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=50) * 3
    k, p = int(rng.integers(1, 50)), float(rng.uniform(0.05, 0.95))
    falling = sorted(range(50), key=lambda i: -logits[i])
    assert kept(eq.top_k(tensor(logits), k)) == sorted(falling[:k])

    probabilities = np.exp(logits) / np.exp(logits).sum()
    count = next(n for n in range(1, 51) if probabilities[falling[:n]].sum() >= p)
    assert kept(eq.top_p(tensor(logits), p)) == sorted(falling[:count])


def test_distribution_applies_temperature_then_top_k_then_top_p() -> None:
    # τ = ½ doubles the logits: weights 1, 4, 4, 16. k = 3 leaves 4, 4, 16; p = 0.66 is reached by 16/24 alone,
    # while before top-k it is 16/25 < p, and at τ = 1 it is 4/8 < p: the order shows in the result.
    logits = tensor([0, math.log(2), math.log(2), math.log(4)])
    FLOAT64.assert_close(eq.next_token_distribution(logits, tau=0.5, k=3, p=0.66), [0, 0, 0, 1])
    FLOAT64.assert_close(eq.next_token_distribution(logits, tau=0.5, p=0.66), [0, 1 / 5, 0, 4 / 5])
    FLOAT64.assert_close(eq.next_token_distribution(logits, k=3, p=0.66), [0, 1 / 3, 0, 2 / 3])
    FLOAT64.assert_close(eq.next_token_distribution(logits), [1 / 9, 2 / 9, 2 / 9, 4 / 9])
