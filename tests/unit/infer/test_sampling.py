from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gptwo.base.errors import ConfigError
from gptwo.infer import sampling
from gptwo.infer.sampling import SamplingPolicy
from gptwo.model import equations
from tolerance import Tolerance

SIZES = [1, 2, 63, 1000]
FP64 = Tolerance(rtol=1e-12, atol=1e-12, why="float64; torch and NumPy sum in different orders")

# The numbers of (seed, step) = (0, 0), (0, 1), (1, 0): Philox 4×64 keyed by both, as NumPy computes it.
PINNED = [0.011546754286331562, 0.8133540609793564, 0.3035680343067586]

Stage = Callable[[np.ndarray], np.ndarray]


def random_logits(V: int, seed: int, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 3.0, V).astype(dtype)


def tied_logits(V: int, seed: int, dtype: type = np.float64) -> np.ndarray:
    """Few distinct values, so that every border falls among equals."""
    return np.random.default_rng(seed).integers(-2, 3, V).astype(dtype)


def with_infinities(V: int, seed: int, dtype: type = np.float64) -> np.ndarray:
    """As an earlier stage leaves them."""
    logits = random_logits(V, seed, dtype)
    logits[1::2] = -math.inf
    return logits


def theirs(processor: LogitsProcessor, logits: np.ndarray, tokens: list[int]) -> np.ndarray:
    return processor(torch.tensor([tokens]), torch.from_numpy(logits.copy())[None])[0].numpy()


def stage_and_theirs(
    stage: Callable[..., np.ndarray], theirs: type[LogitsProcessor], values: list[Any]
) -> list[Any]:
    return [
        pytest.param(lambda z, v=v: stage(z, v), theirs(v), id=f"{stage.__name__}={v}")  # type: ignore[misc]
        for v in values
    ]


STAGES = [
    *stage_and_theirs(sampling.temperature, TemperatureLogitsWarper, [0.1, 0.7, 3.0]),
    *stage_and_theirs(sampling.top_k, TopKLogitsWarper, [1, 5, 62, 63, 5000]),
    *stage_and_theirs(sampling.top_p, TopPLogitsWarper, [1e-9, 0.1, 0.5, 0.9, 0.999]),
    *stage_and_theirs(sampling.min_p, MinPLogitsWarper, [0.0, 0.02, 0.3, 1.0]),
]


@pytest.mark.parametrize("V", SIZES)
@pytest.mark.parametrize(("stage", "processor"), STAGES)
@pytest.mark.parametrize("make", [random_logits, with_infinities])
def test_each_stage_equals_transformers_in_float64(
    stage: Stage, processor: LogitsProcessor, make: Callable[..., np.ndarray], V: int
) -> None:
    for seed in range(5):
        logits = make(V, seed)
        before = logits.copy()
        FP64.assert_close(stage(logits), theirs(processor, logits, [0]), f"seed {seed}")
        assert np.array_equal(logits, before), "a stage changed its argument"


@pytest.mark.parametrize("V", SIZES)
@pytest.mark.parametrize(("stage", "processor"), STAGES)
def test_each_stage_equals_transformers_among_ties(stage: Stage, processor: LogitsProcessor, V: int) -> None:
    """torch's sort is not stable, so transformers does not say which of the equals stay: only how many."""
    for seed in range(5):
        logits = tied_logits(V, seed)
        FP64.assert_close(np.sort(stage(logits)), np.sort(theirs(processor, logits, [0])), f"seed {seed}")


@pytest.mark.parametrize("p", [0.3, 0.95])
def test_top_p_equals_transformers_over_the_whole_vocabulary(p: float) -> None:
    for spread in (0.01, 3.0):
        logits = spread * random_logits(50257, 7)
        FP64.assert_close(sampling.top_p(logits, p), theirs(TopPLogitsWarper(p), logits, [0]))


def test_top_k_and_temperature_equal_transformers_bit_for_bit_in_float32() -> None:
    logits = random_logits(1000, 3, np.float32)
    assert np.array_equal(sampling.top_k(logits, 40), theirs(TopKLogitsWarper(40), logits, [0]))
    assert np.array_equal(
        sampling.temperature(logits, 0.7), theirs(TemperatureLogitsWarper(0.7), logits, [0])
    )


@pytest.mark.parametrize("penalty", [0.5, 1.3, 2.0])
@pytest.mark.parametrize("V", SIZES)
def test_repetition_penalty_equals_transformers(V: int, penalty: float) -> None:
    generator = np.random.default_rng(V)
    for seed in range(5):
        logits = random_logits(V, seed)
        logits[0] = 0.0
        tokens = generator.integers(0, V, 40).tolist()
        ours = sampling.repetition_penalty(logits, np.array(tokens), penalty)
        FP64.assert_close(ours, theirs(RepetitionPenaltyLogitsProcessor(penalty), logits, tokens))
        if V > 1:
            assert not np.array_equal(ours, logits)


def test_logit_bias_equals_transformers() -> None:
    # Theirs are float32, so these are exact in it.
    bias = {0: -100.0, 7: 2.5, 62: -0.125}
    for make in (random_logits, with_infinities):
        logits = make(63, 1)
        processor = SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})
        ours = sampling.logit_bias(logits, bias)
        FP64.assert_close(ours, theirs(processor, logits, [0]))
        assert not np.array_equal(ours, logits)


def test_count_penalties_are_those_of_openai() -> None:
    logits = random_logits(6, 0)
    # μ_j - c_j α_frequency - [c_j > 0] α_presence, with c = 0, 1, 3, 0, 0, 2.
    expected = logits - np.array([0.0, 0.7 + 0.2, 0.7 + 3 * 0.2, 0.0, 0.0, 0.7 + 2 * 0.2])
    written = np.array([2, 5, 2, 1, 2, 5])
    FP64.assert_close(sampling.count_penalties(logits, written, 0.7, 0.2), expected)
    assert np.array_equal(sampling.count_penalties(logits, written[:0], 0.7, 0.2), logits)


def test_count_penalties_leave_the_prompt_out_and_the_repetition_penalty_does_not() -> None:
    logits = np.array([1.0, 1.0, 1.0, 1.0])
    tokens = np.array([0, 1, 2, 2])
    for settings, expected in (
        ({"presence_penalty": 0.5}, [1.0, 1.0, 0.5, 1.0]),
        ({"frequency_penalty": 0.5}, [1.0, 1.0, 0.0, 1.0]),
        ({"repetition_penalty": 2.0}, [0.5, 0.5, 0.5, 1.0]),
    ):
        policy = SamplingPolicy(temperature=0.0, **settings)
        assert sampling.process(logits, tokens, policy, prompt_tokens=2).tolist() == expected


@pytest.mark.parametrize("V", SIZES)
@pytest.mark.parametrize("make", [random_logits, tied_logits])
def test_stages_equal_the_papers_equations(make: Callable[..., np.ndarray], V: int) -> None:
    for seed in range(5):
        logits = make(V, seed)
        z = torch.from_numpy(logits)
        FP64.assert_close(sampling.temperature(logits, 0.7), equations.temperature(z, 0.7))
        FP64.assert_close(sampling.top_k(logits, 5), equations.top_k(z, 5))
        for p in (0.05, 0.8, 1.0):
            FP64.assert_close(sampling.top_p(logits, p), equations.top_p(z, p), f"seed {seed}, p={p}")


def test_the_whole_policy_equals_transformers_in_its_order() -> None:
    bias = {3: 4.0, 250: -2.0}
    policy = SamplingPolicy(
        temperature=0.8, top_k=50, top_p=0.9, min_p=0.02, repetition_penalty=1.4, logit_bias=bias
    )
    processors = [
        SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()}),
        RepetitionPenaltyLogitsProcessor(1.4),
        TemperatureLogitsWarper(0.8),
        TopKLogitsWarper(50),
        TopPLogitsWarper(0.9),
        MinPLogitsWarper(0.02),
    ]
    for seed in range(20):
        logits = random_logits(300, seed)
        tokens = [1, 5, 5, 250, seed]
        expected = logits
        for processor in processors:
            expected = theirs(processor, expected, tokens)
        ours = sampling.process(logits, np.array(tokens), policy, prompt_tokens=1)
        assert np.array_equal(np.isfinite(ours), np.isfinite(expected)), f"seed {seed}"
        # `process` shifts the logits, so they are compared as probabilities.
        FP64.assert_close(probabilities(ours), probabilities(expected))


def test_the_count_penalties_come_after_the_repetition_penalty_and_before_the_temperature() -> None:
    logits = np.array([4.0, 1.0])
    policy = SamplingPolicy(
        temperature=0.5, repetition_penalty=2.0, presence_penalty=0.25, logit_bias={0: 2.0}
    )
    z = sampling.process(logits, np.array([1, 0]), policy, prompt_tokens=1)
    # Token 0: (4 + 2) / 2 - 0.25; token 1, of the prompt: 1 / 2.
    assert (z[0] - z[1]) == ((6 / 2 - 0.25) - 1 / 2) / 0.5


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def test_process_equals_the_papers_distribution() -> None:
    logits = random_logits(200, 1)
    ours = sampling.process(
        logits, np.array([0]), SamplingPolicy(temperature=1.5, top_k=30, top_p=0.7), prompt_tokens=1
    )
    expected = equations.next_token_distribution(torch.from_numpy(logits), tau=1.5, k=30, p=0.7)
    FP64.assert_close(probabilities(ours), expected)


@pytest.mark.parametrize(
    "filters",
    [{}, {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.05}, {"top_k": 40, "top_p": 0.9, "min_p": 0.02}],
    ids=str,
)
def test_the_token_is_drawn_from_what_the_stages_leave(filters: dict[str, Any]) -> None:
    policy = SamplingPolicy(temperature=1.3, repetition_penalty=1.2, frequency_penalty=0.3, **filters)
    for seed in range(60):
        logits, tokens = random_logits(300, seed), np.array([1, 5, 5, seed])
        p = probabilities(sampling.process(logits, tokens, policy, prompt_tokens=2))
        token = sampling.choose(logits, tokens, policy, prompt_tokens=2, seed=seed, step=3)
        end = p.cumsum()[token]
        assert p[token] > 0
        assert end - p[token] - 1e-12 <= sampling.uniform(seed, 3) <= end + 1e-12


def test_greedy_takes_the_largest_after_the_penalty_and_the_lowest_id_among_equals() -> None:
    logits = np.array([1.0, 5.0, 4.0, 5.0])
    greedy = SamplingPolicy(temperature=0.0, top_k=1)
    assert sampling.choose(logits, np.array([0]), greedy, prompt_tokens=1, seed=1, step=0) == 1
    penalised = SamplingPolicy(temperature=0.0, repetition_penalty=2.0)
    assert sampling.choose(logits, np.array([1, 3]), penalised, prompt_tokens=2, seed=1, step=0) == 2


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-5, 1e300])
def test_extreme_temperatures_neither_overflow_nor_warn(temperature: float) -> None:
    logits = random_logits(50, 0, np.float32)
    z = sampling.process(
        logits, np.array([0]), SamplingPolicy(temperature=temperature, top_p=0.9), prompt_tokens=1
    )
    p = probabilities(z)
    assert np.isfinite(p).all()
    assert (p.max() == 1.0) == (temperature < 1)


# --- The draw ---------------------------------------------------------------------------------------------------------


def test_drawn_frequencies_follow_the_distribution() -> None:
    logits = random_logits(12, 5)
    logits[[3, 11]] = -math.inf
    draws = 20_000
    counts = np.zeros(12)
    for step in range(draws):
        counts[sampling.draw(logits, sampling.uniform(42, step))] += 1
    expected = draws * probabilities(logits)
    assert counts[[3, 11]].sum() == 0
    possible = expected > 0
    statistic = (((counts - expected) ** 2)[possible] / expected[possible]).sum()
    # 9 degrees of freedom: 27.9 is passed by chance once in a thousand seeds, and this seed is fixed.
    assert statistic < 27.9


def test_uniform_numbers_are_uniform_over_steps_and_over_seeds() -> None:
    for numbers in (
        [sampling.uniform(3, step) for step in range(4000)],
        [sampling.uniform(seed, 3) for seed in range(4000)],
    ):
        counts, _ = np.histogram(numbers, bins=10, range=(0.0, 1.0))
        assert (((counts - 400.0) ** 2) / 400.0).sum() < 27.9  # as above, 9 degrees of freedom
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 4 / math.sqrt(4000)


def test_uniform_numbers_are_pinned() -> None:
    """A seed means the same text in every release."""
    assert [sampling.uniform(0, 0), sampling.uniform(0, 1), sampling.uniform(1, 0)] == PINNED
    assert 0 <= sampling.uniform(2**63 - 1, 0) < 1


def test_the_draw_inverts_the_cumulative_distribution() -> None:
    logits = np.log(np.array([0.25, 0.5, 0.25]))
    below_one = np.nextafter(1.0, 0.0)
    drawn = [sampling.draw(logits, u) for u in (0.0, 0.24, 0.26, 0.74, 0.76, below_one)]
    assert drawn == [0, 0, 1, 1, 2, 2]


def test_the_draw_never_takes_a_removed_token() -> None:
    logits = np.array([-math.inf, 0.0, -math.inf, 1.0, -math.inf])
    drawn = {sampling.draw(logits, u) for u in (0.0, 0.2, 0.3, 0.9, float(np.nextafter(1.0, 0.0)))}
    assert drawn == {1, 3}


def test_the_largest_uniform_number_draws_the_last_token_whatever_the_sum() -> None:
    largest = float(np.nextafter(1.0, 0.0))
    for seed in range(300):
        logits = np.random.default_rng(seed).normal(0.0, 1.0, 7)
        logits[6] = logits.max() - 1.0
        assert sampling.draw(logits, largest) == 6


def test_log_probabilities_are_those_of_torch_in_float64() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (150, 33)).astype(np.float32)
    tokens = np.random.default_rng(1).integers(0, 33, 150)
    expected = torch.log_softmax(torch.from_numpy(logits).double(), dim=1)[
        torch.arange(150), torch.from_numpy(tokens)
    ]
    FP64.assert_close(sampling.log_probabilities(logits, tokens), expected)


# --- The policy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", v) for v in (-0.1, math.nan, math.inf, 10**400, "1", True, None)),
        *(("top_k", v) for v in (0, -1, 2.0, True)),
        *(("top_p", v) for v in (0.0, 1.01, -0.5, math.nan, math.inf, "x")),
        *(("min_p", v) for v in (-0.01, 1.01, math.nan)),
        *(("repetition_penalty", v) for v in (0.0, -1.0, math.nan, math.inf, 1e300, None)),
        *(("presence_penalty", v) for v in (math.nan, math.inf, "x", None)),
        *(("frequency_penalty", v) for v in (math.nan, -math.inf, True, None)),
        *(("logit_bias", v) for v in ([(1, 2.0)], 3, "x")),
        *(("seed", v) for v in (-1, 2**63, 10**400, 1.5)),
    ],
)
def test_a_policy_refuses_what_cannot_be(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}=.* is not possible; expected [^\n]+$"):
        SamplingPolicy(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bias", "named"),
    [
        ({"a": 1.0}, "logit_bias: id='a'"),
        ({-1: 1.0}, "logit_bias: id=-1"),
        ({1.5: 1.0}, "logit_bias: id=1.5"),
        ({3: math.nan}, r"logit_bias\[3\]=nan"),
        ({3: -math.inf}, r"logit_bias\[3\]=-inf"),
        ({3: None}, r"logit_bias\[3\]=None"),
    ],
)
def test_a_policy_refuses_biases_that_cannot_be(bias: dict[Any, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{named} is not possible; expected [^\n]+$"):
        SamplingPolicy(logit_bias=bias)


def test_a_policy_takes_numpy_numbers_and_cannot_be_changed() -> None:
    bias = {np.int64(3): np.float32(1.5)}
    policy = SamplingPolicy(
        temperature=np.float32(0.5), top_k=np.int64(3), seed=np.int64(7), top_p=1, min_p=0, logit_bias=bias
    )
    with pytest.raises(AttributeError):
        policy.top_k = 4  # type: ignore[misc]
    bias[np.int64(4)] = np.float32(1.0)
    assert policy.logit_bias == {3: 1.5}
    assert asdict(policy)["logit_bias"] == {3: 1.5}
    assert replace(policy, seed=8) == replace(policy, seed=8)


def test_fresh_seeds_differ() -> None:
    assert len({sampling.fresh_seed() for _ in range(8)}) > 1
