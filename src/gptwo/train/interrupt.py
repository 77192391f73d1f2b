"""Ctrl-C and SIGTERM as a wish that the loop reads between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from gptwo.train.distributed import World


class _EndedBySignal(BaseException):
    """Leaves work half done; no handler of errors sees it."""


class StopRequest:
    """While entered: the first SIGINT or SIGTERM sets ``signal_name``; a second one ends the process at once.

    Ending at once spoils nothing, since a checkpoint appears whole or not at all. Outside the main thread, where
    Python allows no handlers, it never asks to stop.
    """

    def __init__(self) -> None:
        self._number = 0
        self._ends = False
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    @property
    def signal_name(self) -> str | None:
        return signal.Signals(self._number).name if self._number else None

    def agreed(self, world: World) -> bool:
        """Whether any rank was asked to stop; then all of them are, by the same signal."""
        number = world.largest(self._number)
        self._number = max(self._number, number)  # one may have come while the ranks agreed
        return number > 0

    @contextmanager
    def ending(self, *, allowed: bool = True) -> Iterator[None]:
        """Of work that may be left undone: while entered, the first signal ends it, if ``allowed``."""
        self._ends = allowed
        try:
            yield
        except _EndedBySignal:
            pass
        finally:
            self._ends = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)
        if self._ends:
            raise _EndedBySignal

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
