"""The line through the times of transfers, and what is copied where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fake_cuda import fake_cuda
from gptwo.perf import transfers
from gptwo.perf.transfers import fit


def test_latency_and_bandwidth_are_found_again() -> None:
    line = fit([(size, 20e-6 + size / 12e9) for size in (4096, 1 << 16, 1 << 20, 1 << 30)])
    assert line.latency_s == pytest.approx(20e-6)
    assert line.bytes_per_s == pytest.approx(12e9)
    assert line.seconds(12_000_000) == pytest.approx(20e-6 + 1e-3)


def test_a_small_transfer_counts_as_much_as_a_large_one() -> None:
    """With absolute errors the 4 KB would have no say beside a GB that took 3% longer."""
    noisy = [(4096, 20e-6), (1 << 20, 107e-6), (1 << 26, 5.7e-3), (1 << 30, 92e-3)]
    line = fit(noisy)
    for size, seconds in noisy:
        assert abs(line.seconds(size) / seconds - 1) < 0.05


def test_neither_figure_is_negative() -> None:
    line = fit([(4096, 1e-7), (1 << 20, 1e-4), (1 << 30, 0.2)])
    assert line.latency_s == 0.0
    assert line.bytes_per_s > 0


def test_both_directions_from_both_kinds_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[tuple[str, str, int]] = []
    latency, bandwidth = 1e-5, 1e10

    def copy(target: Any, source: Any) -> Any:
        copied.append((source.device.type, target.device.type, source.numel()))
        size = source.numel()
        return lambda: (target.copy_(source), size)[1]

    monkeypatch.setattr(transfers, "_copy", copy)
    monkeypatch.setattr(transfers, "host_clock", lambda device: lambda work: latency + work() / bandwidth)
    pinned: list[bool] = []
    zeros = torch.zeros

    def zeros_on_host(*sizes: int, pin_memory: bool, **settings: Any) -> torch.Tensor:
        pinned.append(pin_memory)  # which takes a GPU
        return zeros(*sizes, **settings)

    monkeypatch.setattr(torch, "zeros", zeros_on_host)
    with fake_cuda() as device:
        found = transfers.transfers(device, largest=100_000, budget_s=0.0)
    sizes = [4096, 16384, 65536, 100_000]
    assert pinned == [False, True]
    assert copied == [(*ends, size) for ends in (("cpu", "cuda"), ("cuda", "cpu")) * 2 for size in sizes]
    for direction in ("host_to_device", "device_to_host"):
        for kind in ("pageable", "pinned"):
            line = found[direction][kind]
            assert line["latency_s"] == pytest.approx(latency)
            assert line["bytes_per_s"] == pytest.approx(bandwidth)
            np.testing.assert_allclose(
                line["samples"], [[size, latency + size / bandwidth] for size in sizes]
            )
