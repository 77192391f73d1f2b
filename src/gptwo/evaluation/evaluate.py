"""``gptwo.evaluate`` and ``gptwo eval``: one call for every task."""

from __future__ import annotations

from pathlib import Path

from gptwo.base.errors import ConfigError
from gptwo.data import Split
from gptwo.evaluation.loss import evaluate_loss
from gptwo.evaluation.result import EvaluationResult, Progress
from gptwo.evaluation.tasks import TASKS, evaluate_task
from gptwo.infer.api import LanguageModel
from gptwo.infer.task import require_count


def evaluate(
    model: LanguageModel,
    data: str | Path,
    *,
    task: str = "loss",
    split: Split | None = None,
    stride: int | None = None,
    limit: int | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """How good ``model`` is on ``data``: a prepared folder, a text file, or the file of a task.

    task      "loss" | "lambada" | "hellaswag" | "multiple-choice"
    split     of a prepared folder: "val" (None) or "train"
    stride    of the windows over a text, 1 to C; None is C, windows side by side
    limit     evaluate only so many tokens of a text, or examples of a task
    batch     rows in one pass; None is as many as hold some thousand tokens
    progress  called with what is done and what there is in all

    The protocols are in docs/guides/evaluate.md. Raises ``DataError``, ``ConfigError``, ``TokenizerError``,
    ``ContextLengthError`` or ``DivergedError``, each in one line.
    """
    data, progress = Path(data), progress or (lambda done, total: None)
    for name, value in (("limit", limit), ("batch", batch)):
        if value is not None:
            require_count(name, value)
    if task == "loss":
        return evaluate_loss(
            model, data, split=split, stride=stride, limit=limit, batch=batch, progress=progress
        )
    if task not in TASKS:
        raise ConfigError(f"there is no task {task!r}; expected loss or one of {', '.join(TASKS)}")
    for name, given in (("split", split), ("stride", stride)):
        if given is not None:
            raise ConfigError(f"{name} belongs to the loss over a text; leave it out with the task {task}")
    return evaluate_task(model, data, task=task, limit=limit, batch=batch, progress=progress)
