"""``gptwo prepare`` as the terminal shows it: a bar per stage, where there is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import DownloadColumn

from gptwo.base.progress import progress_bar
from gptwo.data.prepare import PrepareProgress

_WORDS = {"reading": "reading text", "tokenizer": "making the tokenizer", "writing": "writing tokens"}


@contextmanager
def prepare_bar(console: Console) -> Iterator[Callable[[PrepareProgress], None]]:
    """Pass what it gives to ``prepare`` as its ``progress``."""
    with progress_bar(console, _WORDS["reading"], DownloadColumn()) as update:
        yield lambda progress: update(progress.bytes_done, progress.bytes_total, _WORDS[progress.stage])
