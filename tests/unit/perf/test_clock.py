"""The least of many passes counts, or their median, and all pieces take turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gptwo.perf.clock import Work, device_clock, least_seconds, typical_seconds


@pytest.mark.parametrize(
    ("seconds", "expected"), [(least_seconds, [3.0, 2.0]), (typical_seconds, [4.5, 4.75])]
)
def test_pieces_take_turns_and_the_least_or_the_median_counts(seconds: Any, expected: list[float]) -> None:
    ran: list[str] = []
    scripted = {"a": iter([9.0, 5.0, 3.0, 4.0, 6.0]), "b": iter([1.0, 2.0, 8.0, 7.0, 2.5])}

    def piece(name: str) -> Work:
        return lambda: ran.append(name)

    def clock(work: Work) -> float:
        work()
        return next(scripted[ran[-1]])

    # The first pass warms up: its 1.0 does not count.
    assert seconds([piece("a"), piece("b")], clock, budget_s=0.0) == expected
    assert ran == ["a", "b"] * 5


def test_a_short_piece_may_have_a_turn_of_its_own() -> None:
    ran: list[str] = []

    def piece(name: str) -> Work:
        return lambda: ran.append(name)

    def clock(work: Work) -> float:
        work()
        return {"a": 0.25, "b": 2.0}[ran[-1]]

    assert typical_seconds([piece("a"), piece("b")], clock, budget_s=0.0, turn_s=0.5) == [0.25, 2.0]
    assert ran == ["a", "b", *["a", "a", "b"] * 4]


def test_the_cpu_is_timed_by_the_hosts_clock() -> None:
    done = []
    assert device_clock(torch.device("cpu"))(lambda: done.append(1)) >= 0
    assert done == [1]
