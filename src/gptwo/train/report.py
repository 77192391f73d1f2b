"""What a run says of itself: ``metrics.jsonl``, the tracker, the observer, and what decorates its folder."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gptwo.checkpoint.runs import checkpoint_path
from gptwo.config import TrainConfig
from gptwo.costs import training_flops
from gptwo.model import GPT2
from gptwo.train.ceiling import matmul_ceiling
from gptwo.train.distributed import World
from gptwo.train.evaluate import Evaluation
from gptwo.train.guard import Guard
from gptwo.train.interval import Interval
from gptwo.train.memory import memory_bytes
from gptwo.train.metrics import MetricsLog
from gptwo.train.observer import Observer, RunStart, StepReport, Took
from gptwo.train.ornaments import Ornaments
from gptwo.train.run_folder import METRICS_NAME
from gptwo.train.schedule import learning_rate
from gptwo.train.source import Source
from gptwo.train.track import open_tracker


def describe_run(
    config: TrainConfig, model: GPT2, source: Source, world: World, *, device: torch.device, step: int
) -> RunStart:
    """What the observer is told of a run that goes on after ``step``."""
    return RunStart(
        config=config,
        model=model.config,
        parameters=sum(p.numel() for p in model.parameters()),
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        train_tokens=source.tokens,
        device=world.describe(device, config.parallel),
        first_step=step,
        ranks=world.size,
    )


class Report:
    """Of the run in ``config.out``, from ``saved_step`` on (-1: all of it). Methods take the number of finished steps.

    With a ``plan``, the log has that, and at the end what the steps really took.
    """

    def __init__(
        self,
        start: RunStart,
        source: Source,
        *,
        saved_step: int,
        device: torch.device,
        observer: Observer,
        plan: Mapping[str, Any] | None = None,
    ) -> None:
        self._config = start.config
        self._folder = folder = Path(start.config.out)
        self._model = start.model
        self._source = source
        self._device = device
        self._observer = observer
        self._ranks = start.ranks
        self._metrics = MetricsLog(folder / METRICS_NAME, first_step=saved_step)
        self.ornaments = Ornaments(folder, observer)
        self.ornaments.trim(saved_step)
        self._tracker = open_tracker(start.config.track, folder)
        self._intervals: list[tuple[int, float]] = []
        self._planned = plan is not None
        if plan is not None:
            self._metrics.append({"step": start.first_step, "plan": dict(plan)})

    def close(self) -> None:
        self._tracker.close()

    def trained(self, step: int, interval: Interval, guard: Guard) -> None:
        """A line on the steps of ``interval``, which end at ``step``."""
        config, context = self._config, self._model.context
        tokens_per_step = self._source.sequences * context
        tokens_per_s = interval.timed_steps * tokens_per_step / interval.seconds
        flops_per_s = tokens_per_s / context * training_flops(self._model, batch=1, tokens=context)
        rows = context * (config.micro_batch or self._source.sequences)
        ceiling = matmul_ceiling(self._model, rows=rows, device=self._device, dtype=config.dtype)
        self._intervals.append((interval.timed_steps, interval.seconds))
        memory, peak_memory = memory_bytes(self._device)
        loss, bytes_per_token = interval.mean_loss(), self._source.bytes_per_token
        report = StepReport(
            step=step,
            loss=loss,
            loss_per_byte=loss / bytes_per_token if loss is not None and bytes_per_token else None,
            gradient_norm=interval.mean_gradient_norm(),
            lr=learning_rate(step - 1, config),
            tokens_per_s=tokens_per_s,
            matmul_share=flops_per_s / (ceiling * self._ranks),
            data_wait=interval.waiting_seconds / interval.seconds,
            memory_bytes=memory,
            seconds_left=(config.steps - step) * tokens_per_step / tokens_per_s,
        )
        figures = {
            "loss": loss,
            "loss_per_byte": report.loss_per_byte,
            "lr": report.lr,
            "gradient_norm": report.gradient_norm,
            "skipped_steps": guard.skipped_steps,
            "tokens_per_s": tokens_per_s,
            "matmul_share": report.matmul_share,
            "data_wait": report.data_wait,
            "memory_bytes": memory,
            "peak_memory_bytes": peak_memory,
        }
        self._record(step, {name: value for name, value in figures.items() if value is not None})
        self._observer.stepped(report)

    def evaluated(self, step: int, result: Evaluation, sample: str) -> None:
        self._record(step, {"val_loss": result.nats_per_token, "val_loss_per_byte": result.nats_per_byte})
        self.ornaments.plot()
        if sample:
            self.ornaments.sample(step, result.nats_per_token, sample)
        self._observer.evaluated(step, result, sample)

    def evaluation_failed(self, step: int, reason: str) -> None:
        self._metrics.append({"step": step, "evaluation_error": reason})
        self._observer.warned(f"step {step}: the evaluation failed ({reason}); the run goes on")

    def went_back(self, left: int, step: int, loss: float) -> None:
        """From step ``left`` to the checkpoint of ``step``: the lines between are not of this run any more."""
        self._metrics.cut(step)
        self.ornaments.trim(step)
        self._record(step, {"went_back_from": left})
        self._observer.warned(
            f"step {left}: the loss has jumped to {loss:.4g}; back to step {step}, and past the rows seen since"
        )

    def ended(self, step: int) -> Took | None:
        """What all steps of this process took, and a line on it beside a plan; None when none was taken."""
        if not self._intervals:
            return None
        steps, seconds = (sum(column) for column in zip(*self._intervals, strict=True))
        each = statistics.median(seconds / steps for steps, seconds in self._intervals)
        took = Took(
            steps=int(steps),
            seconds=seconds,
            seconds_per_step=each,
            tokens_per_s=self._source.sequences * self._model.context / each,
            peak_memory_bytes=memory_bytes(self._device)[1],
        )
        if self._planned:
            self._metrics.append({"step": step, "took": asdict(took)})
        return took

    def flush_to_disk(self) -> None:
        """Make the lines so far safe, before a checkpoint that counts on them."""
        self._metrics.flush_to_disk()

    def evaluation_tried(self, step: int) -> bool:
        """Whether the log has an evaluation of this step, or why there is none."""
        tried = ("val_loss", "evaluation_error")
        return any(r["step"] == step and any(key in r for key in tried) for r in self._metrics.read())

    def best(self, *, until: int | None = None) -> Path | None:
        """The checkpoint of the lowest validation loss of those that are there, of no later step than ``until``.

        Of equals, the earlier.
        """
        losses = {r["step"]: r["val_loss"] for r in self._metrics.read() if "val_loss" in r}
        steps = sorted((loss, step) for step, loss in losses.items() if until is None or step <= until)
        paths = (checkpoint_path(self._folder, step) for _, step in steps)
        return next((path for path in paths if path.is_dir()), None)

    def _record(self, step: int, figures: dict[str, Any]) -> None:
        self._metrics.append({"step": step, **figures})
        self._tracker.record(step, figures)
