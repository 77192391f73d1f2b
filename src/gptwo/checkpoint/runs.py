"""The checkpoints of a run: RUN/checkpoints/step-00001000/, and which of them is the newest whole one. No torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from gptwo.base.errors import CheckpointError
from gptwo.checkpoint.atomic_folder import name_in_place, remove_folder
from gptwo.checkpoint.manifest import is_whole, looks_whole, verify

CHECKPOINTS_NAME = "checkpoints"
_STEP_NAME = re.compile(r"step-(\d{8,})")

_log = logging.getLogger(__name__)


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps lies."""
    return Path(run) / CHECKPOINTS_NAME / f"step-{step:08d}"


def is_run(folder: Path) -> bool:
    return (folder / CHECKPOINTS_NAME).is_dir()


def list_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first: those whose files are all there with their sizes.

    A checkpoint that a cut-off replacement left aside counts where there is none in its place.
    """
    by_step: dict[int, Path] = {}
    for step, path in _candidates(run):
        if step not in by_step and looks_whole(path):
            by_step[step] = path
    return [by_step[step] for step in sorted(by_step)]


def holds_checkpoints(run: Path) -> bool:
    """Whether anything that a save left is there, whole or damaged: such a folder is not to be begun anew."""
    return any(True for _ in _candidates(run))


def newest_whole(run: Path, *, training: bool = True) -> Path | None:
    """The newest checkpoint whose every byte is as it was saved; None when there is none.

    One that is damaged is passed over, and a warning says which and why. ``training`` False does not read the
    training state, for those who only want the model.
    """
    for _, path in _candidates(run):
        try:
            verify(path, training=training)
        except CheckpointError as error:
            _log.warning("passing over checkpoint %s: %s", path, error)
        else:
            return path
    return None


def newest_whole_of(run: Path, last_step: int) -> Path | None:
    """The newest whole checkpoint of ``last_step`` or before; None when there is none."""
    newest = checkpoint_path(run, last_step)
    found = (path for path in reversed(list_checkpoints(run)) if path <= newest)
    return next((path for path in found if is_whole(path)), None)


def remove_later(run: Path, step: int) -> None:
    """Removes the checkpoints of steps after ``step``. ``StorageError`` when the disk refuses."""
    for path in list_checkpoints(run):
        if path > checkpoint_path(run, step):
            remove_folder(path)


def prune(run: Path, keep_last: int, keep: Collection[Path] = ()) -> list[Path]:
    """Removes all but the last ``keep_last`` checkpoints and those in ``keep``; returns what it removed.

    When none of those is whole to the last byte, the newest whole one is kept as well: the only whole one is never
    removed. ``StorageError`` when the disk refuses.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last={keep_last}; expected at least 1")
    checkpoints = list_checkpoints(run)
    kept = {path.resolve() for path in (*checkpoints[-keep_last:], *keep)}
    doomed = [path for path in checkpoints if path.resolve() not in kept]
    if doomed and not any(is_whole(path) for path in reversed(checkpoints) if path not in doomed):
        spared = next((path for path in reversed(doomed) if is_whole(path)), None)
        doomed = [path for path in doomed if path != spared]
    for path in doomed:
        remove_folder(path)
    return doomed


def _candidates(run: Path) -> Iterator[tuple[int, Path]]:
    """Newest step first; of one step, the folder in place before the one set aside."""
    folder = Path(run) / CHECKPOINTS_NAME
    found: list[tuple[int, bool, Path]] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _STEP_NAME.fullmatch(name_in_place(path))
        if match:
            found.append((int(match[1]), path.name == match[0], path))
    for step, _, path in sorted(found, reverse=True):
        yield step, path
