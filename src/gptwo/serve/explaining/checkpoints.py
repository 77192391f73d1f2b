"""The checkpoints of the run that is served: which there are, whether it still trains, and each one's model."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptwo.base.errors import CheckpointError, GptwoError
from gptwo.base.lock import is_locked
from gptwo.checkpoint.runs import CHECKPOINTS_NAME, checkpoint_path, list_checkpoints
from gptwo.serve.errors import ApiError
from gptwo.train.metrics import read_metrics
from gptwo.train.run_folder import METRICS_NAME

if TYPE_CHECKING:
    from gptwo.infer.api import LanguageModel

MOST_MODELS = 4
"""Models of other checkpoints that are held at a time: a slider goes back and forth between neighbours."""
MOST_RECORDS = 4000
"""Lines of metrics of one answer; of more every second, third, … is left, and all with a validation loss."""
_STEP = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """Those of the run that ``folder`` is a checkpoint of; of any other folder there are none."""

    def __init__(self, folder: Path) -> None:
        folder = folder.resolve()
        found = _STEP.fullmatch(folder.name)
        of_run = found is not None and folder.parent.name == CHECKPOINTS_NAME
        self.run = folder.parent.parent if of_run else None
        self.served = int(found[1]) if found is not None and of_run else None
        """The step of the checkpoint that is served; None where it is of no run."""
        self._models: OrderedDict[int, LanguageModel] = OrderedDict()

    def steps(self) -> list[int] | None:
        """Those on the disk just now, ascending; None where there is no run."""
        if self.run is None:
            return None
        try:
            found = (_STEP.match(path.name) for path in list_checkpoints(self.run))
        except OSError:  # pruned while it was looked at
            return self.steps()
        return [int(match[1]) for match in found if match]

    @property
    def live(self) -> bool:
        """Whether a process trains in the run."""
        return self.run is not None and is_locked(self.run)

    def model(self, step: int) -> LanguageModel:
        """The model of another checkpoint, on torch on the CPU, in float32. ``ApiError`` 404 for none there is.

        A run that goes on removes old checkpoints, also while one is read.
        """
        if (known := self._models.get(step)) is not None:
            self._models.move_to_end(step)
            return known
        if self.run is None:
            raise ApiError(
                404, "the model is no run and has no checkpoints", param="checkpoint", code="no_checkpoint"
            )
        from gptwo.infer.api import load

        folder = checkpoint_path(self.run, step)
        try:
            model = load(folder, device="cpu", dtype="fp32", engine="torch")
        except (CheckpointError, OSError) as error:
            if isinstance(error, GptwoError) and folder.is_dir() and step in (self.steps() or ()):
                raise ApiError(
                    409,
                    f"checkpoint {step} cannot be read: {error}",
                    param="checkpoint",
                    code="checkpoint_damaged",
                ) from error
            raise ApiError(
                404,
                f"the run has no checkpoint {step}; expected one of {_few(self.steps() or [])}",
                param="checkpoint",
                code="no_checkpoint",
            ) from error
        self._models[step] = model
        while len(self._models) > MOST_MODELS:
            self._models.popitem(last=False)
        return model

    def records(self, after: int) -> list[dict[str, Any]]:
        """The lines of the run's metrics.jsonl of later steps, ascending, at most about MOST_RECORDS."""
        if self.run is None:
            return []
        try:
            found = [record for record in read_metrics(self.run / METRICS_NAME) if record["step"] > after]
        except (GptwoError, OSError):  # replaced while it was read
            return []
        every = -(-len(found) // MOST_RECORDS)
        return [
            record
            for place, record in enumerate(reversed(found))
            if every <= 1 or place % every == 0 or "val_loss" in record
        ][::-1]


def _few(steps: list[int]) -> str:
    shown = ", ".join(map(str, steps[-5:]))
    return shown if len(steps) <= 5 else f"…, {shown}"
