"""How the process holds on to memory that it has freed."""

from __future__ import annotations

import ctypes
import os
import sys

# mallopt's numbers, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = -1
_OF_THE_USER = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed for the next allocation, and return whether it does so now.

    By default a block of 32 MB or more goes back to the system when freed, and each page of the next one costs a fault
    and 4 kB of zeros: 50 MB take 25 ms, in which a step of a small model multiplies 5 GFLOP. A training step asks for
    the same blocks again and again. The process keeps its peak. Does nothing without glibc, or where the user's
    environment tunes malloc.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OF_THE_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
