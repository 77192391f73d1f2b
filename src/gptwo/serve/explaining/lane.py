"""One model run at a time, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from gptwo.base.errors import QueueFullError
from gptwo.serve.offload import in_daemon_thread

Result = TypeVar("Result")

MOST_LOOKS = 64
"""Requests for a part of an explanation that may wait. A page asks for some at once, and each is short."""


class Lane:
    """Explanations share the cores with those whose texts are being written, so they take turns among themselves."""

    def __init__(self, queue: int) -> None:
        self._most = {True: queue, False: MOST_LOOKS}
        self._inside = {True: 0, False: 0}
        self._turn = asyncio.Lock()

    async def run(
        self,
        work: Callable[[], Result],
        *,
        model_run: bool = False,
        on_leave: Callable[[], None] | None = None,
    ) -> Result:
        """``work()`` in a thread, when its turn comes; ``on_leave`` is told when who asked leaves while it runs.

        ``QueueFullError`` when as many wait as may: fewer of those that run a model than of those that only look.
        """
        if self._inside[model_run] > self._most[model_run]:
            raise QueueFullError(
                f"{self._inside[model_run]} explanations are being made or wait, and the server takes "
                f"{self._most[model_run]} beside the first; ask again later"
            )
        self._inside[model_run] += 1
        try:
            async with self._turn:
                work_done = in_daemon_thread(work, "gptwo-explain")
                try:
                    return await asyncio.shield(work_done)
                except asyncio.CancelledError:
                    if on_leave is not None:
                        on_leave()
                        # The next one comes in when the thread has ended, which it now does soon.
                        await asyncio.wait({work_done})
                    raise
        finally:
            self._inside[model_run] -= 1
