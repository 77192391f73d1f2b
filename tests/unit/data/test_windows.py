from __future__ import annotations

import pytest

from gptwo.data.windows import bytes_of_predicted, windows


def predicted_positions(tokens: int, context: int, stride: int | None) -> list[tuple[int, int]]:
    """(position, tokens that it is predicted from) of everything that is predicted, in order."""
    return [
        (position, position - window.start)
        for window in windows(tokens, context, stride)
        for position in range(
            window.start + window.length + 1 - window.predicted, window.start + window.length + 1
        )
    ]


@pytest.mark.parametrize("stride", [None, 1, 2, 3])
@pytest.mark.parametrize(("tokens", "context"), [(2, 8), (9, 8), (10, 8), (100, 7), (17, 16), (1, 4), (0, 4)])
def test_every_token_but_the_first_is_predicted_once(tokens: int, context: int, stride: int | None) -> None:
    positions = [position for position, _ in predicted_positions(tokens, context, stride)]
    assert positions == list(range(1, tokens))


@pytest.mark.parametrize("stride", [1, 3, 7, 8])
def test_each_is_predicted_from_all_before_it_or_from_enough(stride: int) -> None:
    seen = predicted_positions(41, 8, stride)
    assert all(min(position, 8 - stride + 1) <= used <= 8 for position, used in seen)
    assert min(used for position, used in seen if position > 8) == 8 - stride + 1, (
        "and not from more than said"
    )


def test_windows_by_hand() -> None:
    assert list(windows(8, 3)) == [(0, 3, 3), (3, 3, 3), (6, 1, 1)]
    assert list(windows(8, 3, 2)) == [(0, 3, 3), (2, 3, 2), (4, 3, 2)]
    assert list(windows(7, 3, 2)) == [(0, 3, 3), (2, 3, 2), (4, 2, 1)]


def test_bytes_are_the_predicted_tokens_share() -> None:
    assert bytes_of_predicted(100, 50, 49) == 98.0
