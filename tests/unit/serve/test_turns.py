"""The sum of a pass's steps against the whole: more pairs while they disagree, for a bounded time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gptwo.serve.explaining.turns import Timed, by_turns, until_agreed


class Scripted:
    """A clock that only the passes move, by the seconds that the script has for each."""

    def __init__(self, timed_s: Iterator[float], plain_s: Iterator[float]) -> None:
        self.now_s = 0.0
        self.order: list[str] = []
        self._timed_s, self._plain_s = timed_s, plain_s

    def clock(self) -> float:
        return self.now_s

    def timed(self) -> list[float]:
        self.order.append("timed")
        took_s = next(self._timed_s)
        self.now_s += took_s
        return [0.25e6 * took_s, 0.75e6 * took_s]

    def plain(self) -> None:
        self.order.append("plain")
        self.now_s += next(self._plain_s)


def scripted(timed_s: list[float], plain_s: list[float]) -> Scripted:
    """The last of each goes on for ever."""

    def forever(values: list[float]) -> Iterator[float]:
        yield from values
        while True:
            yield values[-1]

    return Scripted(forever(timed_s), forever(plain_s))


@pytest.mark.parametrize(
    ("us", "forward_us", "agrees"),
    [
        ([40.0, 65.0], 100.0, True),
        ([40.0, 66.0], 100.0, False),
        ([95.0], 100.0, True),
        ([94.0], 100.0, False),
    ],
)
def test_agreement_is_within_five_percent_of_the_whole(
    us: list[float], forward_us: float, agrees: bool
) -> None:
    assert Timed(us, forward_us).agrees is agrees


def test_what_agrees_is_not_measured_longer() -> None:
    script = scripted([0.2], [0.2])
    found = by_turns(script.timed, script.plain, script.clock)
    # One of each to begin with, and the fewest that count.
    assert script.order == ["timed", "plain"] * 5
    assert sum(found.us) == pytest.approx(0.2e6)
    assert found.forward_us == pytest.approx(0.2e6)
    assert found.agrees


def test_pairs_go_on_until_the_sum_is_the_whole() -> None:
    # Something else is at work during the first five passes with a clock, and during two more.
    script = scripted([0.3] * 7 + [0.204], [0.2])
    found = by_turns(script.timed, script.plain, script.clock)
    assert script.order == ["timed", "plain"] * 8
    # The quickest pass's own steps, not each step's best.
    assert list(found.us) == pytest.approx([0.051e6, 0.153e6])
    assert found.agrees


def test_it_ends_though_they_never_agree_and_says_so() -> None:
    script = scripted([0.3], [0.2])
    found = by_turns(script.timed, script.plain, script.clock)
    assert not found.agrees
    assert sum(found.us) == pytest.approx(0.3e6)
    # Five pairs of half a second, three seconds more of them, and the pair that began within those.
    assert 2.5 + 3.0 <= script.now_s <= 2.5 + 3.0 + 0.5 + 1e-6


def test_one_pair_of_a_long_pass_is_tried_again() -> None:
    script = scripted([8.0], [5.0])
    found = until_agreed([[9.0e6]], [6.0e6], script.timed, script.plain, script.clock)
    assert script.order == ["timed", "plain"]
    assert (sum(found.us), found.forward_us) == pytest.approx((8.0e6, 5.0e6))
    assert not found.agrees


def test_what_was_quicker_before_is_kept() -> None:
    script = scripted([0.3, 0.5], [0.2, 0.295])
    found = until_agreed([[0.4e6], [0.25e6]], [0.31e6], script.timed, script.plain, script.clock)
    assert list(found.us) == [0.25e6]
    assert found.forward_us == pytest.approx(0.2e6)
