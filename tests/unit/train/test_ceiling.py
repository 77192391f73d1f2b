"""The ceiling counts what it says: each product as often as the model runs it, and the fastest pass of each."""

from __future__ import annotations

import pytest
import torch
from tests.tolerance import Tolerance

from gptwo.config import PRESETS, GPT2Config
from gptwo.train import ceiling
from gptwo.train.ceiling import matmul_ceiling

CPU = torch.device("cpu")
CONFIG = GPT2Config(n_layer=3, n_head=2, n_embd=8, context=16, vocab_size=20_000, n_inner=20)
EXACT = Tolerance(rtol=1e-9, why="sums of a few float64 numbers")


def test_products_weigh_as_often_as_the_model_runs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock on which every pass of every product takes one second, the ceiling is the mean FLOPs of a pass."""
    monkeypatch.setattr(ceiling, "_seconds", lambda way, device: (way(), 1.0)[1])
    monkeypatch.setattr(ceiling, "_BUDGET_S", 0.0)
    measured = matmul_ceiling(CONFIG, rows=5, device=CPU)
    D, F, V, L = 8, 20, 20_000, 3
    flops = 3 * 2 * 5 * (L * (3 * D * D + D * D + 2 * D * F) + V * D)
    seconds = 3 * (4 * L + V / 4096)
    EXACT.assert_close(measured, flops / seconds)


def test_the_fastest_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0] * 30 + [4.0] * 30 + [2.0] * 30 + [3.0] * 100_000)
    monkeypatch.setattr(ceiling, "_seconds", lambda way, device: next(seconds))
    monkeypatch.setattr(ceiling, "_BUDGET_S", 0.02)
    slowest = matmul_ceiling(CONFIG, rows=6, device=CPU)
    monkeypatch.setattr(ceiling, "_seconds", lambda way, device: 2.0)
    EXACT.assert_close(slowest, matmul_ceiling(CONFIG, rows=6, device=torch.device("cpu", 0)))


def test_measured_once_per_process() -> None:
    first = matmul_ceiling(PRESETS["nano"], rows=64, device=CPU)
    assert first > 0
    assert matmul_ceiling(PRESETS["nano"], rows=64, device=CPU) == first
