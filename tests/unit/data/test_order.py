"""The order of training data: pinned, since a resumed or repeated run must see the same tokens for ever."""

from __future__ import annotations

import numpy as np
import pytest

from gptwo.base.errors import DataError
from gptwo.data import TokenOrder


def test_golden_offsets() -> None:
    order = TokenOrder(tokens=1_000_000, context=64, sequences_per_step=8, seed=1337)
    assert order.windows_per_epoch == 15624
    assert order.offsets(0).tolist() == [895297, 495553, 761665, 511553, 627201, 90433, 837953, 464641]
    assert order.offsets(100_000).tolist() == [793429, 499669, 531029, 5461, 981525, 725397, 679829, 977685]
    assert TokenOrder(10**12, 1024, 2, seed=0).offsets(10**15).tolist() == [666671357871, 911795695535]


def test_seed_and_step_alone_decide() -> None:
    one, two = (TokenOrder(10_000, 32, 5, seed=1) for _ in range(2))
    forwards = [one.offsets(step).tolist() for step in range(300)]
    assert [two.offsets(step).tolist() for step in reversed(range(300))] == forwards[::-1]
    one.offsets(7)[:] = -1
    assert one.offsets(7).tolist() == forwards[7]


def test_how_a_step_is_sized_does_not_change_the_order_of_samples() -> None:
    small, large = TokenOrder(10_000, 32, 3, seed=1), TokenOrder(10_000, 32, 12, seed=1)
    assert np.concatenate([small.offsets(step) for step in range(4)]).tolist() == large.offsets(0).tolist()


def test_seeds_and_epochs_differ_and_are_shuffled() -> None:
    n = TokenOrder(10_000, 10, 1, seed=0).windows_per_epoch
    epochs = [TokenOrder(10_000, 10, n, seed).offsets(epoch) // 10 for seed in (0, 1) for epoch in (0, 1)]
    for left in range(4):
        for right in range(left):
            # Two unrelated permutations agree in about one place; these have 999.
            assert (epochs[left] == epochs[right]).sum() < 20
        neighbours = np.abs(np.diff(epochs[left]))
        assert neighbours.mean() == pytest.approx(n / 3, rel=0.1)
    phases = {int(TokenOrder(10_000, 10, n, seed=0).offsets(epoch).min()) for epoch in range(100)}
    assert phases == set(range(10))


@pytest.mark.parametrize(
    ("tokens", "context", "windows"), [(65, 64, 1), (127, 64, 1), (128, 64, 1), (192, 64, 2)]
)
def test_small_data_still_has_whole_windows(tokens: int, context: int, windows: int) -> None:
    order = TokenOrder(tokens, context, 3, seed=9)
    assert order.windows_per_epoch == windows
    for step in range(200):
        starts = order.offsets(step)
        assert starts.min() >= 0
        assert starts.max() + context + 1 <= tokens


def test_too_little_data_is_refused_with_the_numbers() -> None:
    with pytest.raises(DataError, match="has 64 tokens; a context of 64 needs at least 65"):
        TokenOrder(64, 64, 1, seed=0)
    with pytest.raises(DataError, match="step=-1"):
        TokenOrder(65, 64, 1, seed=0).offsets(-1)
    with pytest.raises(DataError, match="sequences_per_step=0"):
        TokenOrder(65, 64, 0, seed=0)
