"""Medians, their intervals and percentiles; and what counts as a difference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gptwo.perf.statistics import Summary, separated, summarise


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


def test_three_samples_separate_nothing() -> None:
    assert not separated(summarise([1.0] * 3), summarise([2.0] * 30))
