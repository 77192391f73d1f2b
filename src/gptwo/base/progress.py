"""A bar on the terminal: how far a long piece of work has come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


class Update(Protocol):
    def __call__(self, done: int, total: int | None, what: str | None = None) -> None: ...


@contextmanager
def progress_bar(console: Console, what: str, *columns: ProgressColumn) -> Iterator[Update]:
    """While entered, a bar behind ``what``, where ``console`` is a terminal; ``columns`` say how much is done.

    It moves when what it gives is called, with another ``what`` where that has changed.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int | None, what: str | None = None) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield update
