"""Seconds of a piece of work on a device, which is waited for: the least and the median of many repetitions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from gptwo.base.device import wait

Work = Callable[[], object]
Clock = Callable[[Work], float]
# Passes of each piece, at least: the first ones load kernels and take memory.
_LEAST_PASSES = 4


def host_clock(device: torch.device) -> Clock:
    """Seconds that a caller waits for the work's results on ``device``."""

    def seconds(work: Work) -> float:
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        return time.perf_counter() - began

    return seconds


def device_clock(device: torch.device) -> Clock:
    """Seconds that the device itself is at work: between two events on CUDA, elsewhere ``host_clock``."""
    if device.type != "cuda":
        return host_clock(device)

    def seconds(work: Work) -> float:
        with torch.cuda.device(device):
            begin, end = _event(), _event()
            begin.record()
            work()
            end.record()
            end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    return seconds


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call] # torch leaves it unannotated


def least_seconds(pieces: Sequence[Work], clock: Clock, *, budget_s: float) -> list[float]:
    """Of each piece the least seconds, of at least four passes in turn through all of them, for ``budget_s`` or more.

    The least is what the machine can do: whatever else happens on it only adds. In turn, so that a slow moment is
    shared by all.
    """
    return [min(samples) for samples in _in_turn(pieces, clock, budget_s=budget_s)]


def typical_seconds(
    pieces: Sequence[Work], clock: Clock, *, budget_s: float, turn_s: float = 0.0
) -> list[float]:
    """As ``least_seconds``, the medians: what a run will take on this machine, as it is.

    A piece that in a run follows itself has a turn of ``turn_s`` or more: it then finds the caches as it leaves them.
    """
    samples = _in_turn(pieces, clock, budget_s=budget_s, turn_s=turn_s)
    return [statistics.median(seconds) for seconds in samples]


def _in_turn(
    pieces: Sequence[Work], clock: Clock, *, budget_s: float, turn_s: float = 0.0
) -> list[list[float]]:
    times = [max(1, int(turn_s / max(clock(piece), 1e-9))) for piece in pieces]
    samples: list[list[float]] = [[] for _ in pieces]
    passes, end = 0, time.perf_counter() + budget_s
    while passes < _LEAST_PASSES or time.perf_counter() < end:
        for seconds, piece, count in zip(samples, pieces, times, strict=True):
            seconds += [clock(piece) for _ in range(count)]
        passes += 1
    return samples
