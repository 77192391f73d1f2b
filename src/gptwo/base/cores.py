"""How many threads are worth having here: the cores that this process may use. No torch."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from gptwo.base.errors import ConfigError

# What says which CPUs share a core with one, by the kernel's newer and older name for it.
_SIBLINGS = ("core_cpus_list", "thread_siblings_list")
# The limits of a control group, in its second and its first version: of each period, the time that may be used.
_LIMITS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def usable_cores(system: Path = Path("/")) -> int:
    """Physical cores among the CPUs that this process may run on, at most what its control groups grant; at least 1.

    A second thread on a core adds no memory bandwidth, and threads beyond a quota are stopped in the middle of their
    work. A part of a core in a quota counts as one. ``system`` is where ``proc`` and ``sys`` lie.
    """
    return max(1, math.ceil(min(_allowed_cores(system), _granted(system))))


def check_threads(threads: int | None) -> None:
    """``ConfigError`` for a ``--threads`` that cannot be measured with: None is the default, else 1 to all CPUs.

    Threads beyond the CPUs wait for each other's turns, and what takes seconds takes minutes.
    """
    most = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= most:
        raise ConfigError(
            f"--threads {threads} is not possible; expected 1 to {most}, the CPUs of this machine"
        )


def _allowed_cores(system: Path) -> int:
    everywhere = range(os.cpu_count() or 1)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else everywhere
    siblings = {_siblings(system / f"sys/devices/system/cpu/cpu{cpu}/topology") for cpu in allowed}
    if None not in siblings:
        return len(siblings)
    import psutil

    return min(len(allowed), psutil.cpu_count(logical=False) or len(allowed))


def _siblings(topology: Path) -> str | None:
    """The CPUs on one core with this one: a name of that core. None where the system does not say."""
    for name in _SIBLINGS:
        with suppress(OSError):
            return (topology / name).read_text().strip()
    return None


def _granted(system: Path) -> float:
    """Seconds of processor time per second that the process's control groups and those above them grant; or ∞."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    granted = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path).relative_to("/")
        # In a container the path may be the host's, and only the mounted folder itself be there.
        for mount in {
            system / "sys/fs/cgroup" / name for name in (controllers, "cpu" if controllers else "")
        }:
            granted = min(granted, *(_limit(mount / above) for above in (group, *group.parents)))
    return granted


def _limit(group: Path) -> float:
    """What one group grants; ∞ where it sets no limit or is not there."""
    for names in _LIMITS:
        with suppress(OSError, ValueError):
            quota, period = " ".join((group / name).read_text() for name in names).split()
            if quota not in ("max", "-1"):
                return int(quota) / int(period)
    return math.inf
