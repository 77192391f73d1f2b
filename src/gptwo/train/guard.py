"""When a step is bad, and when several are enough to go back: a rule on the losses alone, which a resume repeats."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

Verdict = Literal["good", "bad", "go back"]

# Good losses that a loss is held against, and how many of them must be there first.
_WINDOW = 100
_ENOUGH = 20
BAD_IN_A_ROW = 3
MOST_ROLLBACKS = 3


class Guard:
    """Judges every step.

    A step is bad when its loss or gradient is not a finite number (it is then skipped: weights and optimizer stay as
    they were), or when its loss lies more than ``spike_nats`` above the highest of the last 100 good ones (at least 20;
    0 nats: never). After 3 bad steps in a row the run goes back to the checkpoint before them, and past the rows
    that it has seen since: step s then learns from the rows of step s + ``rows_ahead``. Weights that a spike may have
    spoiled (``in_a_spike``) are not worth keeping.
    """

    def __init__(self, spike_nats: float, kept: Mapping[str, Any] | None = None) -> None:
        kept = kept or {}
        self._spike_nats = spike_nats
        self._losses: deque[float] = deque(kept.get("losses", ()), maxlen=_WINDOW)
        self._good_steps: int = kept.get("good_steps", 0)  # since the last return to a checkpoint
        self.bad_in_a_row: int = kept.get("bad_in_a_row", 0)
        self.in_a_spike: bool = kept.get("in_a_spike", False)
        self.skipped_steps: int = kept.get("skipped_steps", 0)
        self.rollbacks: int = kept.get("rollbacks", 0)
        self.rows_ahead: int = kept.get("rows_ahead", 0)
        # The step of the last save that was due amid good steps; -1 before there is one. A save that only a signal
        # asked for does not count: a stopped run must go back to where one that never stopped goes.
        self.good_save: int = kept.get("good_save", -1)

    def judge(self, loss: float, *, applied: bool) -> Verdict:
        """The verdict on a step of this loss, whose update was ``applied`` or skipped."""
        self.skipped_steps += not applied
        if applied and not self._spikes(loss):
            self._losses.append(loss)
            self._good_steps += 1
            if self._good_steps == _WINDOW:
                self.rollbacks = 0  # what went wrong then is over
            self.bad_in_a_row, self.in_a_spike = 0, False
            return "good"
        self.bad_in_a_row += 1
        self.in_a_spike |= applied
        return "go back" if self.bad_in_a_row >= BAD_IN_A_ROW else "bad"

    def _spikes(self, loss: float) -> bool:
        if not self._spike_nats or len(self._losses) < _ENOUGH:
            return False
        return loss > max(self._losses) + self._spike_nats

    def went_back(self, kept: Mapping[str, Any], *, steps: int) -> Guard:
        """The guard of the checkpoint ``steps`` earlier, with what has been counted since."""
        guard = Guard(self._spike_nats, kept)
        guard.bad_in_a_row, guard.in_a_spike = 0, False
        guard.skipped_steps = self.skipped_steps
        guard._good_steps = 0
        guard.rollbacks = self.rollbacks + 1
        guard.rows_ahead = self.rows_ahead + steps
        return guard

    def begin_anew(self) -> None:
        """Take the losses from here on as good: where there is nothing to go back to."""
        self._losses.clear()
        self.bad_in_a_row, self.in_a_spike = 0, False

    def to_json(self) -> dict[str, Any]:
        return {
            "losses": list(self._losses),
            "good_steps": self._good_steps,
            "bad_in_a_row": self.bad_in_a_row,
            "in_a_spike": self.in_a_spike,
            "skipped_steps": self.skipped_steps,
            "rollbacks": self.rollbacks,
            "rows_ahead": self.rows_ahead,
            "good_save": self.good_save,
        }
