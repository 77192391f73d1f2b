"""A run in the terminal, with the plan before it and what it really took after it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console

from gptwo.base.memory import resident_bytes
from gptwo.config import PRESETS
from gptwo.costs import training_flops
from gptwo.perf.plan import TrainingPlan, plan_training
from gptwo.perf.plan_text import took_line, training_summary
from gptwo.perf.target import find_target, measured_process_bytes
from gptwo.train.finetune_config import FinetuneConfig
from gptwo.train.memory import memory_bytes
from gptwo.train.observer import RunStart, TrainResult
from gptwo.train.setup import require_step_memory
from gptwo.train.terminal import TerminalObserver

# A run of so many FLOPs takes two cores a quarter of an hour and more. Beside that it is nothing to measure, for half a
# minute and once, a machine that has not been measured yet. A shorter run has no time in its plan then.
_WORTH_MEASURING = 3e14
# What a process takes with its first step, beside tensors: threads, and what libraries work in. Seen on Linux: 21 MB.
_FIRST_STEP = 20_000_000


class PlanningObserver(TerminalObserver):
    """``TerminalObserver`` that plans the run when it starts. To be made before there is a model."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._process_bytes = resident_bytes()[0]
        self.plan: TrainingPlan | None = None

    def started(self, start: RunStart) -> dict[str, Any]:
        """Say the plan if steps are left, and keep it.

        ``ConfigError``, with its parts, for one that does not fit and is not forced.
        """
        self.plan = plan_run(start, process_bytes=self._process_bytes, say=self._say)
        if self.plan.fits is False and not start.config.force:
            assert self.plan.free_memory_bytes is not None, "fits is known"
            require_step_memory(
                self.plan.memory,
                parameters=self.plan.parameters,
                micro_batch=self.plan.micro_batch,
                free=self.plan.free_memory_bytes,
                where=self.plan.device,
            )
        if self.plan.steps:
            self._say(training_summary(self.plan))
        super().started(start)
        return self.plan.to_json()

    def ended(self, result: TrainResult) -> None:
        """Say what it really took, beside the plan."""
        if self.plan is not None and result.took is not None:
            self._say(took_line(self.plan, result.took))

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def plan_run(start: RunStart, *, process_bytes: int, say: Callable[[str], None]) -> TrainingPlan:
    """The plan of the steps that are left, on the device of this rank.

    On the CPU memory is that of the process, which took ``process_bytes`` before it had a model; on a GPU it is that of
    tensors. What may be taken is what is free now and what the run has already.
    """
    config = start.config
    steps = config.steps - start.first_step
    flops = training_flops(start.model, batch=1, tokens=start.model.context) / start.model.context
    threads = os.environ.get("OMP_NUM_THREADS", "")
    target = find_target(
        config.device,
        threads=int(threads) if threads.isdecimal() else None,
        measure=steps * config.batch_tokens * flops > _WORTH_MEASURING,
        say=say,
    )
    if target.memory_bytes is not None:
        taken, _ = memory_bytes(torch.device(target.device))
        target = dataclasses.replace(target, memory_bytes=target.memory_bytes + taken)
    all_trained = start.trained_parameters == start.parameters
    return plan_training(
        start.model,
        target,
        batch_tokens=config.batch_tokens,
        steps=steps,
        dtype=config.dtype,
        optimizer="muon" if config.optimizer == "muon" else "adamw",
        micro_batch=config.micro_batch,
        checkpoint_activations=config.checkpoint_activations,
        compiled=bool(config.compile),
        adapters=None if all_trained else start.trained_parameters,
        process_bytes=(
            max(process_bytes + _FIRST_STEP, measured_process_bytes(target, "train"))
            if target.kind == "cpu"
            else 0
        ),
        ranks=start.ranks,
        parallel=config.parallel,
        text_tokens=start.train_tokens,
        from_scratch=not isinstance(config, FinetuneConfig)
        and config.model in PRESETS
        and not start.first_step,
    )
