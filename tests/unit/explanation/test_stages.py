"""The draw in stages takes the token that sampling takes, and shows why."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo.explanation.sampling import draw_in_stages
from gptwo.infer import sampling
from gptwo.infer.policy import SamplingPolicy
from tolerance import FLOAT64

V = 701
TOKENS = np.array([3, 700, 3, 12, 5])

policies = st.builds(
    SamplingPolicy,
    temperature=st.sampled_from([0.0, 1e-3, 0.7, 1.0, 2.5]),
    top_k=st.none() | st.integers(1, 2 * V),
    top_p=st.none() | st.floats(1e-6, 1.0),
    min_p=st.none() | st.floats(0.0, 1.0),
    repetition_penalty=st.sampled_from([1.0, 1.4]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    logit_bias=st.none() | st.just({5: 8.0, 699: -3.0}),
)


def some_logits(seed: int, dtype: type = np.float32) -> np.ndarray:
    return (4 * np.random.default_rng(seed).normal(size=V)).astype(dtype)


@given(policies, st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_the_token_is_that_of_sampling(policy: SamplingPolicy, seed: int, step: int) -> None:
    z = some_logits(step)
    drawn = draw_in_stages(z, TOKENS, policy, prompt_tokens=3, seed=seed, step=step)
    assert drawn.token == sampling.choose(z, TOKENS, policy, prompt_tokens=3, seed=seed, step=step)
    processed = sampling.process(z, TOKENS, policy, prompt_tokens=3)
    FLOAT64.assert_close(drawn.stages[-1].logits, processed, "what is left")
    assert drawn.stages[-1].probabilities[drawn.token] > 0
    if policy.temperature == 0.0:
        assert drawn.u is None
        assert (drawn.low, drawn.high) == (0.0, 1.0)
    else:
        assert drawn.u == sampling.uniform(seed, step)
        assert drawn.low - 1e-12 <= drawn.u <= drawn.high + 1e-12, "but for the order of the sum"
        FLOAT64.assert_close(drawn.high - drawn.low, drawn.stages[-1].probabilities[drawn.token], "its share")


def by_numpy(z: np.ndarray, tau: float, k: int, p: float, least: float) -> dict[str, np.ndarray]:
    found = {"logits": z}
    z = found["temperature"] = (z - z.max()) / tau
    z = found["top_k"] = np.where(z >= np.sort(z)[-k], z, -math.inf)
    order = np.argsort(-z)
    share = np.exp(z[order]) / np.exp(z).sum()
    keep = np.zeros(V, dtype=bool)
    keep[order[share.cumsum() - share < p]] = True
    z = found["top_p"] = np.where(keep, z, -math.inf)
    found["min_p"] = np.where(np.exp(z) >= least * np.exp(z).max(), z, -math.inf)
    return found


def test_each_stage_is_what_its_name_says() -> None:
    z = some_logits(1, np.float64)
    policy = SamplingPolicy(temperature=0.8, top_k=40, top_p=0.9, min_p=0.3)
    drawn = draw_in_stages(z, TOKENS, policy, prompt_tokens=5, seed=1, step=0)
    expected = by_numpy(z, 0.8, 40, 0.9, 0.3)
    assert [stage.name for stage in drawn.stages] == list(expected)
    for stage in drawn.stages:
        FLOAT64.assert_close(stage.logits, expected[stage.name], stage.name)
        assert stage.kept == np.isfinite(expected[stage.name]).sum()
        FLOAT64.assert_close(stage.probabilities.sum(), 1.0, stage.name)
    kept = [stage.kept for stage in drawn.stages]
    assert kept[:3] == [V, V, 40]
    assert V > 40 > kept[3] > kept[4] >= 1


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        (SamplingPolicy(temperature=0.0), ["logits"]),
        (SamplingPolicy(), ["logits", "temperature"]),
        (SamplingPolicy(top_p=0.5), ["logits", "temperature", "top_p"]),
        (SamplingPolicy(min_p=0.5, repetition_penalty=2.0), ["logits", "adjusted", "temperature", "min_p"]),
        (SamplingPolicy(temperature=0.0, logit_bias={3: 1.0}), ["logits", "adjusted"]),
    ],
)
def test_stages_are_those_that_the_policy_has(policy: SamplingPolicy, names: list[str]) -> None:
    drawn = draw_in_stages(some_logits(2), TOKENS, policy, prompt_tokens=5, seed=0, step=0)
    assert [stage.name for stage in drawn.stages] == names


def test_greedy_takes_the_largest_after_the_bias() -> None:
    policy = SamplingPolicy(temperature=0.0, logit_bias={650: 100.0})
    drawn = draw_in_stages(some_logits(2), TOKENS, policy, prompt_tokens=5, seed=0, step=0)
    assert drawn.token == 650
    assert int(drawn.stages[0].logits.argmax()) != 650


def test_the_logits_that_were_given_stay() -> None:
    z = some_logits(4)
    kept = z.copy()
    policy = SamplingPolicy(top_k=5, logit_bias={0: 9.0})
    draw_in_stages(z, TOKENS, policy, prompt_tokens=5, seed=0, step=0)
    assert np.array_equal(z, kept)
