"""An evaluation as the terminal shows it: a bar, where there is a terminal."""

from __future__ import annotations

from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import MofNCompleteColumn, TextColumn

from gptwo.base.progress import Update, progress_bar


def evaluation_bar(console: Console, unit: str) -> AbstractContextManager[Update]:
    """Pass what it gives to ``evaluate`` as its ``progress``."""
    return progress_bar(console, "evaluating", MofNCompleteColumn(), TextColumn(unit))
