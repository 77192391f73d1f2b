"""A pass timed step by step, and whole, by turns, until the two agree or the time for it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# The sum of the steps is to be the whole to this part of it.
TOLERANCE = 0.05
# A measurement takes about so long. Of two laps of a long pass the quicker may still be a tenth too slow; of four it is
# within some hundredths.
_BUDGET_S = 1.5
_FEWEST_REPEATS = 4
_MOST_REPEATS = 20
# And so much longer while the sum and the whole disagree, as they do when something else took the processor.
_MORE_S = 3.0

Timing = Callable[[], list[float]]
Clock = Callable[[], float]


class Timed(NamedTuple):
    """The µs of each step of the pass that was disturbed least, and of the quickest that was not asked for it.

    One pass's own steps, as those of different ones do not add up: a thread that had to wait for its core is late for
    one step, and the next seems short.
    """

    us: Sequence[float]
    forward_us: float

    @property
    def agrees(self) -> bool:
        """Whether the steps add up to the whole, within ``TOLERANCE`` of it."""
        return abs(sum(self.us) - self.forward_us) <= TOLERANCE * self.forward_us


def quickest(laps: Sequence[list[float]], walls: Sequence[float]) -> Timed:
    """Of passes with their steps' times, and of whole ones."""
    return Timed(min(laps, key=sum), min(walls))


def by_turns(timed: Timing, plain: Callable[[], Any], clock: Clock = time.perf_counter) -> Timed:
    """What else the machine does meets both alike; one of each goes before that does not count."""
    timed()
    once_s = _wall_us(plain, clock) / 1e6
    laps: list[list[float]] = []
    walls: list[float] = []
    for _ in range(min(_MOST_REPEATS, max(_FEWEST_REPEATS, int(_BUDGET_S / (2 * once_s + 1e-9))))):
        laps.append(timed())
        walls.append(_wall_us(plain, clock))
    return until_agreed(laps, walls, timed, plain, clock)


def until_agreed(
    laps: Sequence[list[float]],
    walls: Sequence[float],
    timed: Timing,
    plain: Callable[[], Any],
    clock: Clock = time.perf_counter,
) -> Timed:
    """The quickest of what was measured, and of more pairs of the two while those disagree, for a bounded time.

    The least of more is never further from an undisturbed pass. What still disagrees says so: ``Timed.agrees``.
    """
    found = quickest(laps, walls)
    end = clock() + _MORE_S
    while not found.agrees and clock() < end:
        found = quickest([list(found.us), timed()], [found.forward_us, _wall_us(plain, clock)])
    return found


def _wall_us(run: Callable[[], Any], clock: Clock) -> float:
    begin = clock()
    run()
    return (clock() - begin) * 1e6
