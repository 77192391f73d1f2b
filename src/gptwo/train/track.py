"""Trackers: the same figures as ``metrics.jsonl``, where another program shows them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
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


class TrackioTracker:
    """The local database of trackio: project gptwo, the run under its folder's path; ``trackio show`` looks at it.

    A resumed run goes on under the same name. No server is started. What trackio prints is kept off standard output,
    which is the command's.
    """

    def __init__(self, run: Path) -> None:
        try:
            import trackio
        except ImportError as error:
            raise MissingExtraError(
                "--track trackio needs the package trackio; install it with: pip install 'gptwo[track]'"
            ) from error
        self._finish: Callable[[], None] = trackio.finish
        with redirect_stdout(io.StringIO()):
            self._run = trackio.init(
                "gptwo",
                name=str(run.resolve()),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        with redirect_stdout(io.StringIO()):
            self._finish()


def open_tracker(name: str, run: Path) -> Tracker:
    """The tracker that ``TrainConfig.track`` names. Raises ``MissingExtraError`` when its package is not there."""
    if name == "tensorboard":
        return TensorBoardTracker(run)
    return TrackioTracker(run) if name == "trackio" else NoTracker()
