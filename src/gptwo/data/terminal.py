"""``gptwo prepare`` as the terminal shows it: a bar per stage, where there is a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from gptwo.data.prepare import PrepareProgress

_WORDS = {"reading": "reading text", "tokenizer": "making the tokenizer", "writing": "writing tokens"}


class PrepareBar:
    """Pass ``update`` to ``prepare`` as its ``progress``."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(_WORDS["reading"], total=None)

    def __enter__(self) -> PrepareBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, progress: PrepareProgress) -> None:
        self._bar.update(
            self._task,
            description=_WORDS[progress.stage],
            completed=progress.bytes_done,
            total=progress.bytes_total,
        )
