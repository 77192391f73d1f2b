"""How much memory there is and the process has, and how it holds on to what it has freed."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from gptwo.base.errors import ConfigError
from gptwo.base.units import in_units

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


def resident_bytes() -> tuple[int, int]:
    """Resident memory of this process now, and the most so far."""
    import psutil

    now = int(psutil.Process().memory_info().rss)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return now, max(now, 1024 * int(line.split()[1]))  # the kernel's peak may lag
    if sys.platform == "win32":
        return now, int(psutil.Process().memory_info().peak_wset)
    import resource

    # Not on Linux: there it begins at the memory of whoever started the process.
    unit = 1 if sys.platform == "darwin" else 1024
    return now, max(now, unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def forget_peak() -> None:
    """Let the peaks of ``resident_bytes`` and of torch's memory on GPUs begin again at what is held now.

    The process's own on Linux alone: elsewhere it stays that of the whole process.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def free_memory_bytes(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """What this process may still take: the system's available memory, or less where a control group has a limit.

    A container is such a group. Files that the kernel holds for it and has not used lately are free, too.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        lines = own.read_text().splitlines()
    except OSError:  # another system than Linux
        return free
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, names = groups, ("memory.max", "memory.current", "inactive_file")
        elif controllers == "memory":  # version 1
            root = groups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Limits of groups around it hold, too. Within a container the path may lead nowhere: the root is its own.
        inner = root / path.lstrip("/")
        for group in [inner, *inner.parents]:
            if group.is_relative_to(root):
                free = min(free, _left_in(group, *names, most=free))
    return max(0, free)


def require_memory(what: str, parts: Mapping[str, int], *, free_bytes: int, where: str, remedy: str) -> None:
    """``ConfigError``, with every part, when ``parts`` together are more than there is.

    The line: WHAT takes 6.3 GB (weights 2 GB, …), and WHERE has 4 GB free; REMEDY, or --force to try.
    """
    needed = sum(parts.values())
    if needed <= free_bytes:
        return
    named = ", ".join(f"{name} {in_units(size)}" for name, size in parts.items() if size)
    raise ConfigError(
        f"{what} takes {in_units(needed)} of memory ({named}), and {where} has {in_units(free_bytes)} free; "
        f"{remedy}, or --force to try it all the same"
    )


def _left_in(group: Path, limit: str, used: str, reclaimable: str, *, most: int) -> int:
    try:
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        left = int((group / limit).read_text()) - int((group / used).read_text())
        return left + int(statistics.get(reclaimable, 0))
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return most
