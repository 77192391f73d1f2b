"""What only decorates a run: the plot, the samples, the name of the best checkpoint. Without them it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gptwo.train.observer import Observer
from gptwo.train.plot import plot_loss
from gptwo.train.run_folder import BEST_NAME, METRICS_NAME, PLOT_NAME, SAMPLES_NAME
from gptwo.train.sample import append_sample, trim_samples


class Ornaments:
    """Of the run in ``folder``. What the disk refuses is a warning to the observer."""

    def __init__(self, folder: Path, observer: Observer) -> None:
        self._folder = folder
        self._observer = observer

    def trim(self, last_step: int) -> None:
        """Cut off the samples of later steps, which are made again."""
        self._try(SAMPLES_NAME, lambda path: trim_samples(path, last_step))

    def plot(self) -> None:
        """Draw the losses so far."""
        title = self._folder.resolve().name
        self._try(PLOT_NAME, lambda path: plot_loss(self._folder / METRICS_NAME, path, title=title))

    def sample(self, step: int, loss: float, text: str) -> None:
        self._try(SAMPLES_NAME, lambda path: append_sample(path, step, loss, text))

    def name_best(self, checkpoint: Path | None) -> None:
        """Make ``RUN/best`` stand for this checkpoint, in one instant; for none while there is none."""

        def link(path: Path) -> None:
            if checkpoint is None:
                path.unlink(missing_ok=True)
                return
            target = os.path.relpath(checkpoint, self._folder)
            if path.is_symlink() and os.readlink(path) == target:
                return
            partial = path.with_name(f"{BEST_NAME}.partial")
            partial.unlink(missing_ok=True)
            partial.symlink_to(target, target_is_directory=True)
            partial.replace(path)

        self._try(BEST_NAME, link)

    def _try(self, name: str, make: Callable[[Path], None]) -> None:
        path = self._folder / name
        try:
            make(path)
        except OSError as error:
            self._observer.warned(f"cannot write {path}: {error.strerror or error}; the run goes on")
