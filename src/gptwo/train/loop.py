"""The training loop: step → judge → log → save → evaluate, from step 0 or from the newest whole checkpoint."""

from __future__ import annotations

import gc
import math
import time
from contextlib import closing
from pathlib import Path

import torch

from gptwo.base.errors import ConfigError, DataError, DivergedError
from gptwo.checkpoint.runs import checkpoint_path, newest_whole, newest_whole_of, prune, remove_later
from gptwo.checkpoint.store import TrainingState
from gptwo.config import TrainConfig
from gptwo.train import ranks
from gptwo.train.distributed import ALONE, World
from gptwo.train.evaluate import Evaluation, EvaluationError
from gptwo.train.guard import BAD_IN_A_ROW, MOST_ROLLBACKS, Guard
from gptwo.train.interrupt import StopRequest
from gptwo.train.interval import Interval
from gptwo.train.observer import Observer, Silent, TrainResult
from gptwo.train.optimizer import build_optimizer, restore_optimizer
from gptwo.train.report import Report, describe_run
from gptwo.train.run_folder import require_place, run_folder, starting_point
from gptwo.train.sample import sample_text, with_possible_prompt
from gptwo.train.schedule import schedule_factor
from gptwo.train.setup import resolve_for_machine, slow_dtype, tune_process
from gptwo.train.source import Feed
from gptwo.train.step import StepResult, optimizer_step, seed_step
from gptwo.train.task import Pretraining, Task


def train(
    config: TrainConfig, *, resume: bool = False, observer: Observer | None = None, world: World = ALONE
) -> TrainResult:
    """Train as ``config`` says into the run folder ``config.out``; with ``resume`` go on from its newest checkpoint.

    Step s sees tokens that follow from (seed, s) alone, and dropout that follows from the same, so a resumed run's
    weights are bitwise those of one that never stopped. Saves before it evaluates. On SIGINT or SIGTERM it finishes
    the step, saves and returns. With several ranks, all call this with the same settings, and rank 0 alone reads and
    writes the run folder. Raises ``GptwoError`` for what a user can mend.
    """
    task = Pretraining(config)
    start = starting_point(Path(config.out), resume=resume) if world.writes else None
    return TrainingRun(config, task, world, start=start, observer=observer or Silent()).run()


class TrainingRun:
    """One run, from rank 0's ``starting_point``: its data, model, optimizer and step. ``run`` does the work."""

    def __init__(
        self, config: TrainConfig, task: Task, world: World, *, start: Path | None, observer: Observer
    ) -> None:
        start = world.share_path(start)
        self._observer = observer if world.writes else Silent()
        self._world = world
        self._device = world.device(config.device)
        self._task = task
        config = with_possible_prompt(config, task.tokenizer)
        self._model = ranks.model_on_ranks(
            task.model, start, config, device=self._device, world=world
        ).train()
        self._config = config = resolve_for_machine(config, self._model, world)
        if start is not None and (notice := slow_dtype(config.dtype, self._device)):
            self._observer.warned(notice)
        self._optimizer = build_optimizer(self._model, config)
        self._source = task.source(self._model.config.context)
        self._loss_sum = ranks.loss_on_ranks(self._model, config, world, sequences=self._source.sequences)
        self._feed = Feed(self._source, config.micro_batch or self._source.sequences, self._device, world)
        self._step = 0
        self._interval = Interval()
        self._guard = Guard(config.spike_nats)
        if start is not None:
            self._restore(start)
        self._folder = Path(config.out)
        self._evaluation: Evaluation | None = None
        self._saved_step = self._step if start is not None else -1

    def run(self) -> TrainResult:
        """All steps that are left, unless a signal asks to stop. Until the observer has heard nothing is written."""
        tune_process(self._device)
        if not self._world.writes:
            return self._run()
        start = describe_run(
            self._config, self._model, self._source, self._world, device=self._device, step=self._step
        )
        require_place(Path(self._config.out))
        plan = self._observer.started(start)
        with run_folder(self._config) as self._folder:
            self._world.note_begun()
            self._report = Report(
                start,
                self._source,
                saved_step=self._saved_step,
                device=self._device,
                observer=self._observer,
                plan=plan,
            )
            with closing(self._report):
                return self._run()

    def _run(self) -> TrainResult:
        config = self._config
        with StopRequest() as stop:
            if self._world.share(self._world.writes and self._owes_evaluation()):
                self._evaluate(stop)
            while self._step < config.steps and not stop.agreed(self._world):
                result = self._timed_step()
                self._step += 1
                if not self._accept(result):
                    continue
                last = self._step == config.steps
                if last or self._step % config.log_every == 0:
                    if self._world.writes:
                        self._report.trained(self._step, self._interval, self._guard)
                    self._interval = Interval()
                evaluates = last or self._step % config.eval_every == 0
                stopping = stop.agreed(self._world)
                due = self._should_save(before_evaluation=evaluates)
                if due and not self._guard.bad_in_a_row:
                    self._guard.good_save = self._step
                if due or last or stopping:
                    self._save()
                if evaluates and self._saved_step == self._step and not stopping:
                    self._evaluate(stop)
            stopped_by = stop.signal_name if self._step < config.steps else None
            if self._saved_step != self._step:  # the signal came after this step's turn to save
                self._save()
        took = self._report.ended(self._step) if self._world.writes else None
        saved = checkpoint_path(self._folder, self._step)
        return TrainResult(self._folder, saved, self._step, self._evaluation, stopped_by, took)

    def _should_save(self, *, before_evaluation: bool) -> bool:
        """When its turn has come, and before an evaluation, which may fail; in a spike it waits for a good step."""
        due = self._step // self._config.save_every > max(0, self._saved_step) // self._config.save_every
        return (due or before_evaluation) and not self._guard.in_a_spike

    def _owes_evaluation(self) -> bool:
        """Whether the run was stopped between the save of this step and its evaluation, or is to begin with one."""
        if self._step == 0 and not self._task.measures_start:
            return False
        if self._step % self._config.eval_every and self._step < self._config.steps:
            return False
        if self._guard.in_a_spike and self._step < self._config.steps:
            return False  # saved for a signal alone: a run that never stopped passes it over
        return not self._report.evaluation_tried(self._step)

    # --- one step ---------------------------------------------------------------------------------------------------

    def _timed_step(self) -> StepResult:
        waited, began = self._feed.waited_s, time.perf_counter()
        result = self._one_step()  # its loss is a number, so the device has finished it
        self._interval.time(time.perf_counter() - began, waiting=self._feed.waited_s - waited)
        return result

    def _one_step(self) -> StepResult:
        config, rows = self._config, self._step + self._guard.rows_ahead
        seed_step(config.seed, rows, self._world.rank)
        return optimizer_step(
            self._model,
            self._loss_sum,
            self._optimizer,
            self._feed.micro_batches(rows),
            predicted_tokens=self._source.predicted_tokens(rows),
            lr_factor=schedule_factor(self._step, config),
            grad_clip=config.grad_clip,
            dtype=config.dtype,
            world=self._world,
        )

    # --- bad steps --------------------------------------------------------------------------------------------------

    def _accept(self, result: StepResult) -> bool:
        """Whether the run goes on from this step; False when it went back to a checkpoint."""
        verdict = self._guard.judge(result.loss, applied=result.applied)
        if result.applied:
            self._interval.add(result.loss, result.gradient_norm)
        else:
            self._observer.warned(
                f"step {self._step}: loss or gradient is no finite number; the step is skipped"
            )
        if verdict != "go back":
            return True
        good = self._guard.good_save
        target = self._world.share_path(newest_whole_of(self._folder, good) if self._world.writes else None)
        if self._guard.rollbacks == MOST_ROLLBACKS or (target is None and not result.applied):
            raise DivergedError(
                f"{BAD_IN_A_ROW} bad steps in a row up to step {self._step} (loss {result.loss:.4g}), after "
                f"{self._guard.rollbacks} returns to a checkpoint; {self._remedy()}"
            )
        if target is None:
            self._observer.warned(
                f"step {self._step}: the loss has jumped to {result.loss:.4g}; no checkpoint to go back to"
            )
            self._guard.begin_anew()
            return True
        self._go_back(target, result.loss)
        return False

    def _go_back(self, target: Path, loss: float) -> None:
        """To an earlier checkpoint, past the rows seen since. It is saved again, so that a resume passes them too."""
        left, guard = self._step, self._guard
        ranks.restore_on_ranks(self._task.restore, target, self._model, self._world)
        self._restore(target)
        self._guard = guard.went_back(self._guard.to_json(), steps=left - self._step)
        if self._world.writes:
            self._report.ornaments.name_best(self._report.best(until=self._step))
            remove_later(self._folder, self._step)
            self._report.went_back(left, self._step, loss)
        self._save()

    def _remedy(self) -> str:
        last = newest_whole(self._folder)
        return f"train on from {last} with --model and a lower --lr" if last else "choose a lower --lr"

    # --- save, evaluate ---------------------------------------------------------------------------------------------

    def _save(self) -> None:
        model, optimizer = ranks.whole_state(self._model, self._optimizer, self._world)
        self._saved_step = self._step
        if not self._world.writes:
            return
        if not all(math.isfinite(float(p.detach().abs().max())) for p in model.parameters()):
            raise DivergedError(
                f"weights are no longer finite numbers after step {self._step}; {self._remedy()}"
            )
        info = {
            "data": self._source.identity,
            "seed": self._config.seed,
            "unlogged": self._interval.to_json(),
            "guard": self._guard.to_json(),
        }
        state = TrainingState(self._step, optimizer, info)
        self._report.flush_to_disk()
        path = self._task.save(checkpoint_path(self._folder, self._step), model, state)
        best, good = self._report.best(), checkpoint_path(self._folder, self._guard.good_save)
        prune(self._folder, self._config.keep_last, keep=[good, *([best] if best else [])])
        self._observer.saved(self._step, path)

    def _restore(self, start: Path) -> None:
        state = ranks.training_state_on_ranks(start, self._model, self._world, device=self._device)
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
        self._guard = Guard(self._config.spike_nats, state.info.get("guard"))

    def _evaluate(self, stop: StopRequest) -> None:
        """The held-out loss, and a sample. The step is saved, so a signal ends this at once, and a failure is told."""
        with stop.ending(allowed=self._world.size == 1):
            self._evaluate_or_tell()
        self._model.train()

    def _evaluate_or_tell(self) -> None:
        try:
            result = self._source.evaluate(self._model, self._config, self._world)
            if not math.isfinite(result.nats_per_token):
                raise EvaluationError("the validation loss is no finite number")
        except Exception as error:
            if self._world.size > 1 and not isinstance(error, EvaluationError):
                raise  # the ranks are not in step any more
            failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            self._evaluation = result
            sample = self._sample()  # on every rank: each may have a part of the weights alone
            if self._world.writes:
                self._report.evaluated(self._step, result, sample)
                self._report.ornaments.name_best(self._report.best())
            return
        # Here the failed evaluation's frames are gone; what they held can go too.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self._world.writes:
            self._report.evaluation_failed(self._step, failure)

    def _sample(self) -> str:
        prompt, tokens = self._config.sample_prompt, self._config.sample_tokens
        try:
            return sample_text(self._model, self._task.tokenizer, prompt, tokens)
        except Exception as error:
            ranks.leave_forward(self._model, error, self._world)
            self._observer.warned(f"step {self._step}: no sample ({type(error).__name__}: {error})")
            return ""
