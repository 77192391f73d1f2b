"""Medians, their intervals and percentiles; and what counts as a difference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gptwo.perf.statistics import Summary, separated, summarise, summarise_rounds


def test_the_summary_of_a_few_samples() -> None:
    found = summarise([3.0, 1.0, 2.0, 10.0])
    assert (found.median, found.p50, found.n, found.samples) == (2.5, 2.5, 4, (3.0, 1.0, 2.0, 10.0))
    assert 1.0 <= found.low <= 2.5 <= found.high <= 10.0
    assert found.p95 == pytest.approx(np.percentile([1, 2, 3, 10], 95))


def test_an_interval_takes_six_samples() -> None:
    few, enough = [3.0, 1.0, 2.0, 10.0, 4.0], list(map(float, range(100)))
    assert (summarise(few).low, summarise(few).high) == (1.0, 10.0)
    assert 0 < summarise(enough).low < summarise(enough).high < 99


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    held = sum(
        (found := summarise(generator.exponential(size=25).tolist())).low <= np.log(2) <= found.high
        for _ in range(200)
    )
    assert 0.88 <= held / 200 <= 0.99


def test_the_interval_has_in_it_how_far_processes_are_apart() -> None:
    generator = np.random.default_rng(4)
    pooled = by_rounds = 0
    for _ in range(100):
        # Each process is slow or fast as a whole by ten times what its samples differ by; the true median is 0.
        rounds = generator.normal(size=(8, 1)) + generator.normal(size=(8, 10)) / 10
        found = summarise_rounds(rounds.tolist())
        by_rounds += found.low <= 0 <= found.high
        found = summarise(rounds.ravel().tolist())
        pooled += found.low <= 0 <= found.high
    assert pooled < 75
    assert by_rounds > 85


def test_of_two_processes_the_interval_reaches_from_one_to_the_other() -> None:
    fast, slow = [1.0, 1.01, 1.02, 1.03], [1.2, 1.21, 1.22, 1.23]
    found = summarise_rounds([fast, slow])
    assert (found.low, found.high) == (pytest.approx(1.015, abs=0.011), pytest.approx(1.215, abs=0.011))
    assert found.samples == (*fast, *slow)
    with pytest.raises(ValueError, match=r"\[4, 3\] samples"):
        summarise_rounds([fast, slow[:3]])


def test_the_same_samples_have_the_same_interval() -> None:
    samples = np.random.default_rng(2).normal(size=30).tolist()
    assert summarise(samples) == summarise(samples)


def test_a_p99_needs_a_thousand_samples() -> None:
    assert summarise([1.0] * 999).p99 is None
    assert summarise(list(map(float, range(1001)))).p99 == 990.0


def test_many_samples_are_resampled_in_pieces() -> None:
    found = summarise(np.random.default_rng(3).normal(size=20_000).tolist())
    assert found.low < found.median < found.high < found.low + 0.1


def test_no_samples_have_no_summary() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def test_json_and_back() -> None:
    found = summarise([0.5, 0.25, 0.75])
    assert Summary.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_intervals_that_overlap_are_not_separated() -> None:
    near, far = summarise([1.0, 1.1, 1.2, 1.3]), summarise([2.0, 2.1, 2.2, 2.3])
    assert separated(near, far)
    assert separated(far, near)
    assert not separated(near, summarise([1.25, 1.4, 1.5, 1.6]))
