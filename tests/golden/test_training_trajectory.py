"""Losses of a tiny training run, step by step: a refactor that changes numbers is seen.

When the numbers are meant to change, ``python tests/golden/test_training_trajectory.py`` prints the new ones; say in
the commit why they changed.
"""

from __future__ import annotations

import sys

import torch

from gptwo.config import GPT2Config
from gptwo.model import build_model
from tolerance import Tolerance

CONFIG = GPT2Config(n_layer=2, n_head=3, n_embd=24, context=32, vocab_size=50, dropout=0.0)
# The first is ln 50 = 3.91, a uniform guess.
LOSSES = [
    3.91593, 3.76066, 3.67926, 3.60726, 3.53659, 3.47192, 3.40745, 3.34237, 3.27828, 3.21677,
    3.15585, 3.09450, 3.03336, 2.97259, 2.91200, 2.85240, 2.79294, 2.73346, 2.67400, 2.61457,
]  # fmt: skip
FLOAT32 = Tolerance(
    atol=4e-5, why="five decimals are written; one thread or two, with AVX2 or without, moved them by 1e-5"
)


def training_losses() -> list[float]:
    """Mean loss before each of 20 steps of AdamW on four fixed sequences: squares modulo 50."""
    model = build_model(CONFIG, seed=1, device="cpu").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    positions = torch.arange(4 * 33).view(4, 33)
    sequences = positions * positions % CONFIG.vocab_size
    losses = []
    for _ in range(20):
        loss = model.loss(sequences[:, :-1], sequences[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_losses_are_those_written_down() -> None:
    FLOAT32.assert_close(training_losses(), LOSSES, "losses")


if __name__ == "__main__":
    sys.stdout.write(", ".join(f"{loss:.5f}" for loss in training_losses()) + "\n")
