"""Trackers: the same figures as ``metrics.jsonl``, where another program shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from gptwo.base.errors import MissingExtraError


class Tracker(Protocol):
    """Takes named figures of a step."""

    def record(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """The default: ``metrics.jsonl`` alone."""

    def record(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoardTracker:
    """Event files in ``RUN/tensorboard``; look with ``tensorboard --logdir RUN``."""

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "--track tensorboard needs the package tensorboard; install it with: pip install 'gptwo[track]'"
            ) from error
        self._writer = SummaryWriter(str(run / "tensorboard"))

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def open_tracker(name: str, run: Path) -> Tracker:
    """The tracker that ``TrainConfig.track`` names. Raises ``MissingExtraError`` when its package is not there."""
    return TensorBoardTracker(run) if name == "tensorboard" else NoTracker()
