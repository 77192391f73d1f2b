"""A run as the terminal shows it: a bar with loss, tokens/s and time left; evaluations and samples above it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from gptwo.base.units import duration
from gptwo.train.evaluate import Evaluation
from gptwo.train.observer import RunStart, StepReport


class TerminalObserver:
    """Prints to ``console``: a live bar on a terminal, a line about every twentieth of the run elsewhere."""

    def __init__(self, console: Console, *, show_samples: bool = True) -> None:
        self._console = console
        self._show_samples = show_samples
        self._steps = 0
        self._next_line = 0
        self._bar = Progress(
            TextColumn("[bold]training[/]"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=None, figures="")

    def started(self, start: RunStart) -> Mapping[str, Any] | None:
        model, config = start.model, start.config
        self._steps = config.steps
        self._next_line = start.first_step
        compiled = ", compiled" if config.compile else ", not compiled"
        resumed = f", resumed after step {start.first_step}" if start.first_step else ""
        self._console.print(
            f"{start.parameters:,} parameters (L={model.n_layer} H={model.n_head} D={model.n_embd} "
            f"C={model.context} V={model.vocab_size}) on {start.device}, {config.dtype}{compiled}; "
            f"{config.steps} steps of {config.batch_tokens:,} tokens in micro-batches of {config.micro_batch}, "
            f"{start.train_tokens:,} tokens of text{resumed}",
            highlight=False,
            soft_wrap=not self._console.is_terminal,  # a line in a log file stays one
        )
        self._bar.update(self._task, total=config.steps, completed=start.first_step)
        self._bar.start()
        return None

    def stepped(self, report: StepReport) -> None:
        progress, machine = _figures(report)
        self._bar.update(self._task, completed=report.step, figures=f"{progress}\n{machine}")
        if not self._console.is_terminal and (report.step >= self._next_line or report.step == self._steps):
            line = f"step {report.step}/{self._steps}  {progress}  {machine}"
            self._console.print(line, highlight=False, soft_wrap=True)
            self._next_line = report.step + max(1, self._steps // 20)
        if report.step == self._steps:
            self._bar.stop()

    def saved(self, step: int, checkpoint: Path) -> None:
        if step < self._steps and not self._console.is_terminal:
            self._console.print(
                f"step {step}  saved {checkpoint}", highlight=False, markup=False, soft_wrap=True
            )

    def evaluated(self, step: int, evaluation: Evaluation, sample: str) -> None:
        self._console.print(
            f"step {step}  validation loss {evaluation.nats_per_token:.4f} nats per token, "
            f"{evaluation.nats_per_byte:.4f} per byte",
            highlight=False,
        )
        if sample and self._show_samples:
            self._console.print(
                Panel(Text(sample.strip("\n")), title=f"sample at step {step}", title_align="left")
            )

    def warned(self, message: str) -> None:
        self._console.print(f"warning: {message}", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away, however the run ended."""
        self._bar.stop()


def _figures(report: StepReport) -> tuple[str, str]:
    """What the user waits for, and what the machine does."""
    loss = "all steps skipped" if report.loss is None else f"loss {report.loss:.3f}"
    per_byte = "" if report.loss_per_byte is None else f" ({report.loss_per_byte:.3f} per byte)"
    gradient = "" if report.gradient_norm is None else f"gradient {report.gradient_norm:.2g}  "
    return (
        f"{loss}{per_byte}  {report.tokens_per_s:,.0f} tokens/s  {duration(report.seconds_left)} left",
        f"{gradient}{report.matmul_share:.0%} of peak  data wait {report.data_wait:.1%}  "
        f"{report.memory_bytes / 2**20:,.0f} MiB",
    )
