"""The figures of the steps between two lines of the log."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import torch
from torch import Tensor

from gptwo.train.step import StepResult


class Interval:
    """Figures of the steps since the last line of the log; time spent saving and evaluating is not theirs.

    A checkpoint keeps them, so that a line whose steps were interrupted is still the mean over all of them.
    """

    def __init__(self, kept: Mapping[str, list[float]] | None = None) -> None:
        self._losses = [torch.tensor(value) for value in kept["losses"]] if kept else []
        self._gradient_norms = [torch.tensor(value) for value in kept["gradient_norms"]] if kept else []
        self.seconds = 0.0
        self.timed_steps = 0

    def add(self, result: StepResult, seconds: float) -> None:
        # Tensors, not numbers: reading a number would make the host wait for the device at every step.
        self._losses.append(result.loss)
        self._gradient_norms.append(result.gradient_norm)
        self.seconds += seconds
        self.timed_steps += 1

    def to_json(self) -> dict[str, list[float]]:
        return {"losses": _floats(self._losses), "gradient_norms": _floats(self._gradient_norms)}

    def mean_loss(self) -> float:
        return fmean(_floats(self._losses))

    def mean_gradient_norm(self) -> float:
        return fmean(_floats(self._gradient_norms))


def _floats(scalars: list[Tensor]) -> list[float]:
    return [float(scalar) for scalar in scalars]
