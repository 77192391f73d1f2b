"""Ctrl-C and SIGTERM as a wish that the loop reads between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """While entered: the first SIGINT or SIGTERM sets ``signal_name``; a second one ends the process at once.

    Ending at once spoils nothing, since a checkpoint appears whole or not at all. Outside the main thread, where
    Python allows no handlers, it never asks to stop.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
