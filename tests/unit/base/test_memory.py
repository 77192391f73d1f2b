"""Freed memory is kept where the allocator can do that, and what is free is what a control group leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gptwo.base.memory import free_memory_bytes, resident_bytes

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


def group(path: Path, names: tuple[str, str, str], limit: object, used: int, inactive: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / names[0]).write_text(f"{limit}\n")
    (path / names[1]).write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 5\n{names[2]} {inactive}\n")


V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.mark.parametrize(("line", "root", "names"), [("0::/a/b", "", V2), ("4:memory:/a/b", "memory", V1)])
def test_free_memory_is_what_the_smallest_group_leaves(
    tmp_path: Path, line: str, root: str, names: tuple[str, str, str]
) -> None:
    own = tmp_path / "own"
    own.write_text(f"9:name=systemd:/x\n{line}\n")

    def free() -> int:
        return free_memory_bytes(tmp_path / "groups", own)

    top = tmp_path / "groups" / root
    group(top / "a" / "b", names, 1000, 700, 200)
    assert free() == 500
    group(top / "a", names, 600, 500, 0)
    assert free() == 100
    group(top, names, 5000, 4990, 0)
    assert free() == 10
    group(top, names, "max", 4990, 0)
    assert free() == 100
    group(top / "a", names, 400, 500, 0)
    assert free() == 0
    # Within a container: the path is that of outside, and the root is the container's.
    own.write_text(line.replace("/a/b", "/not/here") + "\n")
    group(top, names, 1000, 900, 0)
    assert free() == 100


def test_without_groups_it_is_the_systems(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    assert 0 < free_memory_bytes(own=tmp_path / "none") <= total
    assert 0 < free_memory_bytes() <= total


def test_the_peak_is_the_processes_own() -> None:
    """A process that a large one starts begins small."""
    held = bytearray(1 << 28)
    held[:: 1 << 12] = b"1" * len(held[:: 1 << 12])
    code = "from gptwo.base.memory import resident_bytes; print(*resident_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    now, peak = map(int, done.stdout.split())
    assert 0 < now <= peak < len(held) <= resident_bytes()[0]
