"""What of a file the system holds in memory, and how to make it let go: without that nothing is read cold."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from pathlib import Path

# Bytes of one call.
_PIECE = 8 << 20
# Pages that stay in memory for others' sake make no file warm.
_COLD = 0.02


def read_seconds(path: Path) -> float:
    """Seconds of reading the whole file once, in pieces, from wherever it is."""
    piece = bytearray(_PIECE)
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(piece):
            pass
    return time.perf_counter() - began


def make_cold(path: Path) -> str | None:
    """Have the system forget the file's content; None, or why it is "not cold"."""
    if not hasattr(os, "posix_fadvise"):
        return "not cold: this system cannot be asked to forget a file"
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not written yet cannot be forgotten
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    share = resident_share(path)
    if share is None:
        return "not cold: this system does not say what it holds of a file"
    return None if share <= _COLD else f"not cold: the system keeps {share:.0%} of the file in memory"


def resident_share(path: Path) -> float | None:
    """The share of the file's pages that are in memory, 0 to 1; None where the system does not say."""
    import numpy as np

    mincore = getattr(ctypes.CDLL(None), "mincore", None)
    size = path.stat().st_size
    if mincore is None or size == 0:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
        content = np.frombuffer(mapped, dtype=np.uint8)
        pages = np.zeros(-(-size // mmap.PAGESIZE), dtype=np.uint8)
        failed = mincore(
            ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)
        )
        del content
    return None if failed else float((pages & 1).mean())
