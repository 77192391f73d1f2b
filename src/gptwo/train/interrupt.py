"""Ctrl-C and SIGTERM as a wish that the loop reads between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from gptwo.train.distributed import World


class StopRequest:
    """While entered: the first SIGINT or SIGTERM sets ``signal_name``; a second one ends the process at once.

    Ending at once spoils nothing, since a checkpoint appears whole or not at all. Outside the main thread, where
    Python allows no handlers, it never asks to stop.
    """

    def __init__(self) -> None:
        self._number = 0
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
        self._number = world.largest(self._number)
        return self._number > 0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
