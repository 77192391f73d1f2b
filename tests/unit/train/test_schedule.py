from __future__ import annotations

import math

import pytest

from gptwo.config import TrainConfig
from gptwo.train.schedule import learning_rate


def run(**changes: float) -> TrainConfig:
    return TrainConfig(**{"data": "d", "out": "o", "lr": 1.0, "warmup_steps": 4, "steps": 12, **changes})  # type: ignore[arg-type]


def test_warms_up_linearly_and_never_stands_at_zero() -> None:
    assert [learning_rate(s, run()) for s in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_is_half_a_cosine_from_lr_to_a_tenth() -> None:
    # W=4, steps=12: step 4 is the top, step 8 half-way, where cos(π/2)=0, and the end would be step 12.
    assert learning_rate(4, run()) == pytest.approx(1.0)
    assert learning_rate(8, run()) == pytest.approx(0.55)
    assert learning_rate(12, run()) == pytest.approx(0.1)
    assert learning_rate(11, run()) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 7 / 8)))


def test_min_lr_is_the_floor_that_was_asked_for() -> None:
    assert learning_rate(12, run(min_lr=0.5)) == pytest.approx(0.5)


def test_no_warm_up_starts_at_the_top() -> None:
    assert learning_rate(0, run(warmup_steps=0)) == pytest.approx(1.0)
