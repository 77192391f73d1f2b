from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gptwo.infer import sampling
from gptwo.infer.candidates import MOST_CANDIDATES, candidates, choose_from_top, decided
from gptwo.infer.sampling import SamplingPolicy


def spread(V: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 3.0, V).astype(np.float32)


def tied(V: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9, 3, V).astype(np.float32)


def removed(V: int, seed: int) -> np.ndarray:
    logits = spread(V, seed)
    logits[np.random.default_rng(seed).random(V) < 0.9] = -math.inf
    logits[seed % V] = 1.0
    return logits


def far_apart(V: int, seed: int) -> np.ndarray:
    """Beside the largest, many that are not equal are the same distance away."""
    logits = spread(V, seed)
    logits[seed % V] = 1e20
    return logits


MAKES: list[Callable[[int, int], np.ndarray]] = [spread, tied, removed, far_apart]


def largest(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.argsort(-logits, kind="stable")[:k]
    return ids, logits[ids]


def of_all(logits: np.ndarray, policy: SamplingPolicy, drawable: int, step: int) -> int:
    masked = logits.copy()
    masked[drawable:] = -math.inf
    return sampling.choose(masked, np.array([0]), policy, prompt_tokens=1, seed=7, step=step)


def of_top(logits: np.ndarray, policy: SamplingPolicy, drawable: int, step: int, k: int) -> int | None:
    ids, kept = largest(logits, k)
    if not decided(ids, kept, policy, drawable=drawable):
        return None
    return int(ids[choose_from_top(ids, kept, policy, drawable=drawable, seed=7, step=step)])


POLICIES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "top_k": 5},
    *(
        {"temperature": tau, "top_k": k, **more}
        for tau in (5e-324, 1e-5, 0.7, 1.0, 1e300)
        for k in (1, 2, 40, 63)
        for more in ({}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_p": 0.9, "min_p": 0.05})
    ),
]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("V", [1, 2, 63, 64, 65, 700])
def test_the_token_is_that_of_all_logits(make: Callable[[int, int], np.ndarray], V: int) -> None:
    decided = 0
    for number, settings in enumerate(POLICIES):
        policy = SamplingPolicy(**settings)
        least = candidates(policy)
        assert least is not None
        for seed in range(3):
            logits = make(V, seed)
            for k in (least, MOST_CANDIDATES):
                for drawable in {V, max(1, V - 3)}:
                    if not np.isfinite(logits[:drawable].max()):
                        continue
                    step = 10 * number + seed
                    token = of_top(logits, policy, drawable, step, k)
                    if token is not None:
                        decided += 1
                        assert token == of_all(logits, policy, drawable, step), (settings, seed, k, drawable)
    assert decided > 100


def test_many_draws_are_those_of_all_logits() -> None:
    policy = SamplingPolicy(temperature=1.3, top_k=50, top_p=0.95)
    for seed in range(20):
        logits = spread(5000, seed)
        for step in range(20):
            token = of_top(logits, policy, 5000, step, 51)
            assert token == of_all(logits, policy, 5000, step)


def test_equals_at_the_border_leave_it_open() -> None:
    logits = np.array([3.0, 2.0, 2.0, 2.0, 1.0], dtype=np.float32)
    assert of_top(logits, SamplingPolicy(top_k=2), 5, 0, 3) is None
    assert of_top(logits, SamplingPolicy(top_k=4), 5, 0, 5) is not None
    assert of_top(logits, SamplingPolicy(top_k=5), 5, 0, 6) is not None


def test_a_temperature_that_makes_equals_leaves_it_open() -> None:
    logits = np.array([1e20, 2.0, 1.0, 0.0, -1.0], dtype=np.float32)
    assert of_top(logits, SamplingPolicy(top_k=2), 5, 0, 3) is None


def test_where_all_but_the_largest_vanish_it_is_decided() -> None:
    logits = np.array([1.0, 2.0, 1.0, 0.0, -1.0], dtype=np.float32)
    assert of_top(logits, SamplingPolicy(top_k=2, temperature=5e-324), 5, 0, 3) == 1


def test_ids_without_text_leave_it_open_where_they_are_too_many() -> None:
    logits = np.array([3.0, 2.0, 1.0, 9.0, 8.0], dtype=np.float32)
    assert of_top(logits, SamplingPolicy(temperature=0.0), 3, 0, 1) is None
    assert of_top(logits, SamplingPolicy(temperature=0.0), 4, 0, 1) == 3
    assert of_top(logits, SamplingPolicy(top_k=2), 3, 0, 3) is None
    assert of_top(logits, SamplingPolicy(top_k=2), 4, 0, 3) is None
    assert of_top(logits, SamplingPolicy(top_k=1), 4, 0, 2) == 3
    assert of_top(logits, SamplingPolicy(top_k=5), 3, 0, 6) in (0, 1, 2)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 0.0}, 1),
        ({"temperature": 0.0, "top_k": 500, "top_p": 0.5}, 1),
        ({"top_k": 1}, 2),
        ({"top_k": 63, "top_p": 0.9, "min_p": 0.1, "temperature": 0.3}, 64),
        ({"top_k": 64}, None),
        ({}, None),
        ({"top_p": 0.9}, None),
        ({"min_p": 0.2}, None),
        ({"temperature": 0.0, "repetition_penalty": 1.1}, None),
        ({"top_k": 5, "presence_penalty": 0.1}, None),
        ({"top_k": 5, "frequency_penalty": 0.1}, None),
        ({"top_k": 5, "logit_bias": {3: 1.0}}, None),
    ],
    ids=str,
)
def test_how_many_candidates_a_policy_needs(settings: dict[str, Any], expected: int | None) -> None:
    assert candidates(SamplingPolicy(**settings)) == expected
