"""The figures of the steps between two lines of the log."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean


class Interval:
    """Figures of the steps since the last line of the log; time spent saving and evaluating is not theirs.

    A checkpoint keeps them, so that a line whose steps were interrupted is still the mean over all of them. The means
    are None while there is no step to take them over.
    """

    def __init__(self, kept: Mapping[str, list[float]] | None = None) -> None:
        self._losses = list(kept["losses"]) if kept else []
        self._gradient_norms = list(kept["gradient_norms"]) if kept else []
        self.seconds = 0.0
        self.waiting_seconds = 0.0
        self.timed_steps = 0

    def add(self, loss: float, gradient_norm: float) -> None:
        self._losses.append(loss)
        self._gradient_norms.append(gradient_norm)

    def time(self, seconds: float, *, waiting: float) -> None:
        """One step took so long, ``waiting`` of it for its rows."""
        self.seconds += seconds
        self.waiting_seconds += waiting
        self.timed_steps += 1

    def to_json(self) -> dict[str, list[float]]:
        return {"losses": self._losses, "gradient_norms": self._gradient_norms}

    def mean_loss(self) -> float | None:
        return fmean(self._losses) if self._losses else None

    def mean_gradient_norm(self) -> float | None:
        return fmean(self._gradient_norms) if self._gradient_norms else None
