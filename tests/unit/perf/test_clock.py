"""The least of many passes counts, and all pieces take turns."""

from __future__ import annotations

import torch

from gptwo.perf.clock import Work, device_clock, least_seconds


def test_pieces_take_turns_and_the_least_counts() -> None:
    ran: list[str] = []
    scripted = {"a": iter([9.0, 5.0, 3.0, 4.0, 6.0]), "b": iter([1.0, 2.0, 8.0, 7.0, 2.5])}

    def piece(name: str) -> Work:
        return lambda: ran.append(name)

    def clock(work: Work) -> float:
        work()
        return next(scripted[ran[-1]])

    # The first pass warms up: its 1.0 does not count.
    assert least_seconds([piece("a"), piece("b")], clock, budget_s=0.0) == [3.0, 2.0]
    assert ran == ["a", "b"] * 5


def test_the_cpu_is_timed_by_the_hosts_clock() -> None:
    done = []
    assert device_clock(torch.device("cpu"))(lambda: done.append(1)) >= 0
    assert done == [1]
