"""What a run tells whoever watches it: the terminal, a test, a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gptwo.config import GPT2Config, TrainConfig
from gptwo.train.evaluate import Evaluation


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """What the run is about to do, with everything resolved."""

    config: TrainConfig
    model: GPT2Config
    parameters: int
    trained_parameters: int
    train_tokens: int
    device: str
    first_step: int
    ranks: int = 1


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Means since the last report; ``loss`` is None when all steps were skipped. ``step`` counts finished steps."""

    step: int
    loss: float | None
    loss_per_byte: float | None
    gradient_norm: float | None
    lr: float
    tokens_per_s: float
    matmul_share: float
    data_wait: float
    memory_bytes: int
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Took:
    """What ``steps`` steps of this process really took, saving and evaluating aside.

    ``seconds`` all of them, ``seconds_per_step`` and ``tokens_per_s`` by the median of what was logged.
    """

    steps: int
    seconds: float
    seconds_per_step: float
    tokens_per_s: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class TrainResult:
    """What a run has when it stops: finished, or asked to by a signal, whose name is then ``stopped_by``.

    ``took`` is None when no step was taken, and on the ranks that do not write.
    """

    run: Path
    checkpoint: Path
    step: int
    evaluation: Evaluation | None
    stopped_by: str | None
    took: Took | None = None


class Observer(Protocol):
    """Called by the loop between steps, never during one."""

    def started(self, start: RunStart) -> Mapping[str, Any] | None:
        """Before the first step. What is returned is kept in ``metrics.jsonl``, as the run's plan."""

    def stepped(self, report: StepReport) -> None: ...

    def saved(self, step: int, checkpoint: Path) -> None: ...

    def evaluated(self, step: int, evaluation: Evaluation, sample: str) -> None: ...

    def warned(self, message: str) -> None: ...


class Silent:
    """An observer that says nothing."""

    def started(self, start: RunStart) -> None: ...

    def stepped(self, report: StepReport) -> None: ...

    def saved(self, step: int, checkpoint: Path) -> None: ...

    def evaluated(self, step: int, evaluation: Evaluation, sample: str) -> None: ...

    def warned(self, message: str) -> None: ...
