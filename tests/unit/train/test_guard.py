from __future__ import annotations

import json
import math

import pytest

from gptwo.train.guard import Guard


def after(losses: list[float], spike_nats: float = 1.0) -> Guard:
    guard = Guard(spike_nats)
    for loss in losses:
        assert guard.judge(loss, applied=True) == "good"
    return guard


def test_three_spikes_in_a_row_go_back_and_two_do_not() -> None:
    guard = after([3.0] * 20)
    assert [guard.judge(4.1, applied=True) for _ in range(2)] == ["bad", "bad"]
    assert guard.judge(3.9, applied=True) == "good", "within a nat of the highest"
    assert guard.judge(4.1, applied=True) == "good", "within a nat of what is now the highest"
    guard = after([3.0] * 20)
    assert [guard.judge(4.1, applied=True) for _ in range(3)] == ["bad", "bad", "go back"]


def test_before_twenty_losses_nothing_is_a_spike() -> None:
    guard = after([5.0] * 19)
    assert guard.judge(50.0, applied=True) == "good"


def test_zero_nats_is_never() -> None:
    after([3.0] * 20 + [1e9] * 5, spike_nats=0.0)


def test_batches_of_two_kinds_are_no_spikes() -> None:
    after([0.5, 0.6, 0.5, 4.5] * 50)


def test_bad_losses_are_not_what_others_are_held_against() -> None:
    guard = after([3.0] * 20)
    for _ in range(50):
        guard.judge(9.0, applied=True)
        guard.judge(9.0, applied=True)
        assert guard.judge(3.0, applied=True) == "good"
    assert guard.judge(9.0, applied=True) == "bad"


@pytest.mark.parametrize("loss", [math.nan, math.inf, 2.0])
def test_a_skipped_step_is_bad_whatever_its_loss_and_counted(loss: float) -> None:
    guard = after([3.0] * 2)
    assert [guard.judge(loss, applied=False) for _ in range(3)] == ["bad", "bad", "go back"]
    assert guard.skipped_steps == 3


def test_its_state_goes_through_json_and_judges_the_same() -> None:
    losses = [3.0 + 0.01 * i for i in range(150)]
    guard = after(losses)
    guard.judge(9.0, applied=True)
    kept = Guard(1.0, json.loads(json.dumps(guard.to_json())))
    assert kept.to_json() == guard.to_json()
    assert [kept.judge(9.0, applied=True), kept.judge(9.0, applied=True)] == ["bad", "go back"]


def test_going_back_keeps_the_counts_and_passes_the_rows() -> None:
    kept = after([3.0] * 20).to_json()
    guard = Guard(1.0, kept)
    for _ in range(3):
        guard.judge(math.nan, applied=False)
    back = guard.went_back(kept, steps=7).went_back(kept, steps=5)
    for _ in range(99):
        assert back.judge(3.0, applied=True) == "good"
    assert (back.rows_ahead, back.rollbacks, back.skipped_steps, back.bad_in_a_row) == (12, 2, 3, 0)
    back.judge(3.0, applied=True)
    assert back.rollbacks == 0, "what went wrong a hundred good steps ago is over"
