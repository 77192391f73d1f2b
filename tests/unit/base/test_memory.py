"""Freed memory is kept where the allocator can do that and the user has not said otherwise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Faults of the second 64 MB buffer, after the first was freed; in a process of its own, whose allocator is fresh.
_FAULTS = """
import ctypes, resource
from gptwo.base.memory import keep_freed_memory
kept = keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, faults)
"""


def second_buffer(**environment: str) -> tuple[bool, int]:
    path = str(Path(__file__).parents[3] / "src")
    answer = subprocess.run(
        [sys.executable, "-c", _FAULTS],
        env={"PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return answer[0] == "True", int(answer[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc: Linux")
def test_a_second_buffer_comes_without_page_faults() -> None:
    kept, faults = second_buffer()
    if not kept:
        pytest.skip("needs glibc's mallopt: another libc")
    assert faults < 100
    kept, faults = second_buffer(MALLOC_MMAP_THRESHOLD_="65536")
    assert not kept, "the user's own setting wins"
    assert faults > 10_000
