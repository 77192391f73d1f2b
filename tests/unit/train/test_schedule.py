from __future__ import annotations

import math
from typing import Any

import pytest

from gptwo.config import GPT2Config, TrainConfig
from gptwo.train.recipes import resolve_recipe
from gptwo.train.schedule import learning_rate, schedule_factor

SHAPE = GPT2Config(n_layer=1, n_head=1, n_embd=8, context=8, vocab_size=8)


def run(**changes: Any) -> TrainConfig:
    settings = {"optimizer": "adamw", "schedule": "cosine", "lr": 1.0, "warmup_steps": 4, "steps": 12}
    return resolve_recipe(TrainConfig(data="d", out="o", **{**settings, **changes}), SHAPE)


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "linear"])
def test_warms_up_linearly_and_never_stands_at_zero(schedule: str) -> None:
    config = run(schedule=schedule)
    assert [learning_rate(s, config) for s in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_cosine_is_half_a_cosine_from_lr_to_a_tenth() -> None:
    # W=4, steps=12: step 4 is the top, step 8 half-way, where cos(π/2)=0, and the end would be step 12.
    assert learning_rate(4, run()) == pytest.approx(1.0)
    assert learning_rate(8, run()) == pytest.approx(0.55)
    assert learning_rate(12, run()) == pytest.approx(0.1)
    assert learning_rate(11, run()) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 7 / 8)))


def test_linear_is_a_line_from_the_end_of_the_warm_up() -> None:
    config = run(schedule="linear", min_lr=0.2)
    assert [learning_rate(s, config) for s in (4, 6, 8, 12)] == pytest.approx([1.0, 0.8, 0.6, 0.2])


def test_wsd_stays_then_falls_over_its_share_of_the_steps() -> None:
    # A quarter of 12 steps: the last three begin at 1, 2/3, 1/3 of the way down.
    config = run(schedule="wsd", decay_fraction=0.25, min_lr=0.1)
    assert [learning_rate(s, config) for s in range(4, 10)] == [1.0] * 6
    assert [learning_rate(s, config) for s in (10, 11, 12)] == pytest.approx([0.7, 0.4, 0.1])


def test_min_lr_is_the_floor_that_was_asked_for() -> None:
    assert learning_rate(12, run(min_lr=0.5)) == pytest.approx(0.5)


def test_no_warm_up_starts_at_the_top() -> None:
    assert learning_rate(0, run(warmup_steps=0)) == pytest.approx(1.0)


def test_the_factor_is_of_lr_and_no_rate_at_all_is_possible() -> None:
    assert schedule_factor(12, run(lr=0.01, min_lr=0.005)) == pytest.approx(0.5)
    assert learning_rate(8, run(lr=0.0)) == 0.0
