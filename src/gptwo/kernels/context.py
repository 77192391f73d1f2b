"""What kernels run in: threads, an instruction set, and memory of their own, for as long as somebody holds it."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any

from gptwo.kernels.interface import native_library


class Context:
    """A pool of threads of the native library. After a fork the child opens its own."""

    def __init__(self, threads: int, instruction_set: str) -> None:
        self.threads = threads
        self.instruction_set = instruction_set
        self._library = native_library()
        self._opened = self._open()
        self._process = os.getpid()
        # Not at the process's end: a thread of Python's may compute until then.
        weakref.finalize(self, _close, self._library, self._opened, self._process).atexit = False

    def _context(self) -> Any:
        # A forked child has the memory of the pool, but none of its threads.
        if os.getpid() != self._process:
            self._opened = self._open()
            self._process = os.getpid()
        return self._opened

    def _open(self) -> Any:
        opened = self._library.gptwo_open(self.instruction_set.encode(), self.threads)
        if not opened:
            raise MemoryError(f"cannot start {self.threads} threads: out of memory")
        return opened


def _close(library: ctypes.CDLL, context: int, process: int) -> None:
    if os.getpid() == process:
        library.gptwo_close(context)
