"""The training loop: step → log → save → evaluate, from step 0 or from the newest whole checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gptwo.base.device import resolve_device
from gptwo.base.errors import ConfigError, DataError, DivergedError
from gptwo.checkpoint.runs import checkpoint_path, newest_whole, prune
from gptwo.checkpoint.store import TrainingState, load_training_state
from gptwo.config import TrainConfig
from gptwo.train.evaluate import Evaluation
from gptwo.train.interrupt import StopRequest
from gptwo.train.interval import Interval
from gptwo.train.metrics import MetricsLog
from gptwo.train.observer import Observer, RunStart, Silent, StepReport
from gptwo.train.optimizer import build_optimizer, optimizer_tensors, restore_optimizer
from gptwo.train.plot import plot_loss
from gptwo.train.run_folder import METRICS_NAME, PLOT_NAME, SAMPLES_NAME, run_folder, starting_point
from gptwo.train.sample import append_sample, sample_text, trim_samples, with_possible_prompt
from gptwo.train.schedule import learning_rate, schedule_factor
from gptwo.train.setup import loss_function, resolve_for_machine
from gptwo.train.step import StepResult, optimizer_step, seed_step
from gptwo.train.task import Pretraining, Task
from gptwo.train.track import open_tracker


@dataclass(frozen=True)
class TrainResult:
    """What a run has when it stops: finished, or asked to by a signal, whose name is then ``stopped_by``."""

    run: Path
    checkpoint: Path
    step: int
    evaluation: Evaluation | None
    stopped_by: str | None


def train(config: TrainConfig, *, resume: bool = False, observer: Observer | None = None) -> TrainResult:
    """Train as ``config`` says into the run folder ``config.out``; with ``resume`` go on from its newest checkpoint.

    Step s sees tokens that follow from (seed, s) alone, and dropout that follows from the same, so a resumed run's
    weights are bitwise those of one that never stopped. Saves before it evaluates. On SIGINT or SIGTERM it finishes
    the step, saves and returns. Raises ``GptwoError`` for what a user can mend.
    """
    return TrainingRun(config, Pretraining(config), resume=resume, observer=observer or Silent()).run()


class TrainingRun:
    """One run: its data, model, optimizer and step. ``run`` does the work."""

    def __init__(self, config: TrainConfig, task: Task, *, resume: bool, observer: Observer) -> None:
        start = starting_point(Path(config.out), resume=resume)
        self._observer = observer
        self._task = task
        self._device = resolve_device(config.device)
        self._tokenizer = task.tokenizer
        config = with_possible_prompt(config, self._tokenizer)
        self._model = task.model(start, self._device).train()
        self._config = config = resolve_for_machine(config, self._model)
        self._optimizer = build_optimizer(self._model, config)
        self._loss_sum = loss_function(self._model, compile_step=config.compile)
        self._source = task.source(self._model.config.context)
        self._step = 0
        self._interval = Interval()
        if start is not None:
            self._restore(start)
        self._folder = Path(config.out)
        self._evaluation: Evaluation | None = None
        self._saved_step = self._step if start is not None else -1

    def run(self) -> TrainResult:
        """All steps that are left, unless a signal asks to stop. Until here nothing has been written."""
        with run_folder(self._config) as self._folder:
            self._metrics = MetricsLog(self._folder / METRICS_NAME, first_step=self._step)
            self._ornament(SAMPLES_NAME, lambda: trim_samples(self._folder / SAMPLES_NAME, self._step))
            self._tracker = open_tracker(self._config.track, self._folder)
            try:
                return self._run()
            finally:
                self._tracker.close()

    def _run(self) -> TrainResult:
        config = self._config
        self._observer.started(self._description())
        with StopRequest() as stop:
            if self._owes_evaluation():
                self._evaluate()
            while self._step < config.steps and stop.signal_name is None:
                began = time.perf_counter()
                result = self._one_step()
                self._step += 1
                last = self._step == config.steps
                logs = last or self._step % config.log_every == 0
                if logs and self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)  # the clock must see the work, not its launch
                self._interval.add(result, time.perf_counter() - began)
                if logs:
                    self._log(self._interval)
                    self._interval = Interval()
                if last or self._step % config.save_every == 0 or stop.signal_name:
                    self._save()
                if (last or self._step % config.eval_every == 0) and not stop.signal_name:
                    self._evaluate()
            stopped_by = stop.signal_name if self._step < config.steps else None
            if self._saved_step != self._step:  # the signal came after this step's turn to save
                self._save()
        checkpoint = checkpoint_path(self._folder, self._step)
        return TrainResult(self._folder, checkpoint, self._step, self._evaluation, stopped_by)

    def _owes_evaluation(self) -> bool:
        """Whether the run was stopped between the save of this step and its evaluation."""
        if self._step == 0 or (self._step % self._config.eval_every and self._step < self._config.steps):
            return False
        return not any(r["step"] == self._step and "val_loss" in r for r in self._metrics.read())

    def _description(self) -> RunStart:
        return RunStart(
            config=self._config,
            model=self._model.config,
            parameters=sum(p.numel() for p in self._model.parameters()),
            train_tokens=self._source.tokens,
            device=self._device.type,
            first_step=self._step,
        )

    def _one_step(self) -> StepResult:
        config = self._config
        seed_step(config.seed, self._step)
        return optimizer_step(
            self._model,
            self._loss_sum,
            self._optimizer,
            self._micro_batches(),
            predicted_tokens=self._source.predicted_tokens(self._step),
            lr_factor=schedule_factor(self._step, config),
            grad_clip=config.grad_clip,
            dtype=config.dtype,
        )

    def _micro_batches(self) -> Iterator[tuple[Tensor, ...]]:
        sequences = self._source.sequences
        size = self._config.micro_batch or sequences
        for first in range(0, sequences, size):
            rows = self._source.batch(self._step, first, min(first + size, sequences))
            arrays = (rows.tokens, rows.targets, rows.documents)
            yield tuple(self._on_device(array) for array in arrays if array is not None)

    def _on_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    def _log(self, interval: Interval) -> None:
        config = self._config
        tokens_per_s = interval.timed_steps * config.batch_tokens / interval.seconds
        report = StepReport(
            step=self._step,
            loss=interval.mean_loss(),
            lr=learning_rate(self._step - 1, config),
            gradient_norm=interval.mean_gradient_norm(),
            tokens_per_s=tokens_per_s,
            seconds_left=(config.steps - self._step) * config.batch_tokens / tokens_per_s,
        )
        self._require_finite(report.loss, report.gradient_norm)
        self._record(
            loss=report.loss, lr=report.lr, gradient_norm=report.gradient_norm, tokens_per_s=tokens_per_s
        )
        self._observer.stepped(report)

    def _record(self, **figures: float) -> None:
        self._metrics.append({"step": self._step, **figures})
        self._tracker.record(self._step, figures)

    def _save(self) -> None:
        self._require_finite(*(float(p.detach().abs().max()) for p in self._model.parameters()))
        info = {
            "data": self._source.identity,
            "seed": self._config.seed,
            "unlogged": self._interval.to_json(),
        }
        path = self._task.save(
            checkpoint_path(self._folder, self._step),
            self._model,
            TrainingState(self._step, optimizer_tensors(self._model, self._optimizer), info),
        )
        self._saved_step = self._step
        prune(self._folder, self._config.keep_last)
        self._observer.saved(self._step, path)

    def _restore(self, start: Path) -> None:
        state = load_training_state(start)
        if state.info.get("data") != self._source.identity:
            raise DataError(
                f"{self._config.data!r} is not the data that this run was trained on; prepare it again"
            )
        restore_optimizer(self._model, self._optimizer, state.tensors)
        if state.step > self._config.steps:
            raise ConfigError(
                f"steps={self._config.steps} is before step {state.step}, where the run stands; expected at least that"
            )
        self._step = state.step
        self._interval = Interval(state.info.get("unlogged"))

    def _evaluate(self) -> None:
        config = self._config
        result = self._source.evaluate(self._model, config)
        self._require_finite(result.nats_per_token)
        self._evaluation = result
        self._record(val_loss=result.nats_per_token, val_loss_per_byte=result.nats_per_byte)
        title = self._folder.resolve().name
        self._ornament(
            PLOT_NAME, lambda: plot_loss(self._folder / METRICS_NAME, self._folder / PLOT_NAME, title=title)
        )
        sample = ""
        if config.sample_tokens:
            sample = sample_text(self._model, self._tokenizer, config.sample_prompt, config.sample_tokens)
            path, loss = self._folder / SAMPLES_NAME, result.nats_per_token
            self._ornament(SAMPLES_NAME, lambda: append_sample(path, self._step, loss, sample))
        self._observer.evaluated(self._step, result, sample)

    def _ornament(self, name: str, draw: Callable[[], None]) -> None:
        """Write what only decorates the run; when the disk refuses it, the run goes on."""
        try:
            draw()
        except OSError as error:
            self._observer.warned(
                f"cannot write {self._folder / name}: {error.strerror or error}; the run goes on"
            )

    def _require_finite(self, *values: float) -> None:
        if all(map(math.isfinite, values)):
            return
        last = newest_whole(self._folder)
        remedy = f"train on from {last} with --model and a lower --lr" if last else "choose a lower --lr"
        raise DivergedError(f"loss or weights are no longer finite numbers after step {self._step}; {remedy}")
