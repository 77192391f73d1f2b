"""How fast a host and its GPU hand tensors to each other, from pageable and from pinned memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from gptwo.perf.clock import Work, host_clock, least_seconds

SMALLEST, LARGEST = 4 << 10, 1 << 30
DIRECTIONS = ("host_to_device", "device_to_host")
KINDS = ("pageable", "pinned")


class Line(NamedTuple):
    """seconds = latency + bytes / bandwidth."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, size: int) -> float:
        """Of so many bytes."""
        return self.latency_s + size / self.bytes_per_s


def fit(samples: Sequence[tuple[int, float]]) -> Line:
    """The line of least squared relative errors through (bytes, seconds): a transfer of 4 KB counts as one of 1 GB.

    Neither of its figures is negative. Needs two sizes at least.
    """
    sizes, seconds = np.array(samples, dtype=np.float64).T
    weighted = np.stack([1 / seconds, sizes / seconds], axis=1)
    (latency, per_byte), *_ = np.linalg.lstsq(weighted, np.ones(len(seconds)), rcond=None)
    if latency < 0:
        latency, per_byte = 0.0, (sizes / seconds).sum() / np.square(sizes / seconds).sum()
    return Line(float(latency), float(1 / per_byte))


def transfers(device: torch.device, *, largest: int = LARGEST, budget_s: float) -> dict[str, dict[str, Any]]:
    """By direction and kind of the host's memory: latency, bandwidth, and the least seconds of each size.

    Sizes are 4 KB and every fourfold of it up to ``largest`` bytes; a caller waits for each copy to end.
    """
    sizes = [SMALLEST]
    while sizes[-1] * 4 <= largest:
        sizes.append(sizes[-1] * 4)
    if sizes[-1] < largest:
        sizes.append(largest)
    on_device = torch.empty(largest, dtype=torch.uint8, device=device)
    found: dict[str, dict[str, Any]] = {direction: {} for direction in DIRECTIONS}
    for kind in KINDS:
        # Written to, so that every page of it is there.
        on_host = torch.zeros(largest, dtype=torch.uint8, device="cpu", pin_memory=kind == "pinned")
        for direction in DIRECTIONS:
            ends = (on_device, on_host) if direction == "host_to_device" else (on_host, on_device)
            copies = [_copy(ends[0][:size], ends[1][:size]) for size in sizes]
            budget = budget_s / (len(KINDS) * len(DIRECTIONS))
            samples = list(
                zip(sizes, least_seconds(copies, host_clock(device), budget_s=budget), strict=True)
            )
            found[direction][kind] = {**fit(samples)._asdict(), "samples": [list(pair) for pair in samples]}
    return found


def _copy(target: torch.Tensor, source: torch.Tensor) -> Work:
    return lambda: target.copy_(source, non_blocking=True)
