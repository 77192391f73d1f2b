"""How many cores a process may use, over folders as Linux shows machines and containers."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from gptwo.base.cores import usable_cores

# CPUs that share a core: two cores of two threads, numbered as most systems do it, and as some others.
TOPOLOGIES = {
    "far": {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"},
    "near": {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"},
}


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The CPUs that the process may run on, to be changed by a test."""
    cpus = {0, 1, 2, 3}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(cpus), raising=False)
    return cpus


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def machine(root: Path, siblings: dict[int, str], name: str = "core_cpus_list") -> Path:
    for cpu, shared in siblings.items():
        write(root / f"sys/devices/system/cpu/cpu{cpu}/topology/{name}", shared)
    return root


@pytest.mark.parametrize(
    ("topology", "cpus", "cores"),
    [
        *(
            ("far", cpus, cores)
            for cpus, cores in (({0, 1, 2, 3}, 2), ({1, 2, 3}, 2), ({0, 1}, 2), ({0, 2}, 1))
        ),
        *(("near", cpus, cores) for cpus, cores in (({0, 1, 2, 3}, 2), ({1}, 1), ({0, 1}, 1), ({0, 2}, 2))),
    ],
)
def test_threads_of_one_core_count_once(
    tmp_path: Path, allowed: set[int], topology: str, cpus: set[int], cores: int
) -> None:
    allowed &= cpus
    for name in ("core_cpus_list", "thread_siblings_list"):
        assert usable_cores(machine(tmp_path / name, TOPOLOGIES[topology], name)) == cores


def test_where_the_system_does_not_say_it_is_as_many_as_there_are_and_are_allowed(
    tmp_path: Path, allowed: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 3)
    assert usable_cores(tmp_path) == 3
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None)
    assert usable_cores(tmp_path) == 4
    allowed -= {1, 2, 3}
    assert usable_cores(tmp_path) == 1


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {}, 4),
        ("0::/", {"cpu.max": "max 100000"}, 4),
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "900000 100000"}, 4),
        # A group within a group: the tighter of the two counts.
        ("0::/jobs/one", {"jobs/one/cpu.max": "300000 100000"}, 3),
        ("0::/jobs/one", {"jobs/one/cpu.max": "300000 100000", "jobs/cpu.max": "100000 100000"}, 1),
        # In a container whose path is the host's, only the mounted folder itself is there.
        ("0::/docker/0123", {"cpu.max": "200000 100000"}, 2),
        # The first version: controllers in folders of their own.
        (
            "4:cpu,cpuacct:/jobs",
            {"cpu,cpuacct/jobs/cpu.cfs_quota_us": "200000", "cpu,cpuacct/jobs/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("2:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "30000", "cpu/cpu.cfs_period_us": "10000"}, 3),
        ("3:cpuset:/\n2:memory:/", {"cpu/cpu.cfs_quota_us": "10000", "cpu/cpu.cfs_period_us": "10000"}, 4),
        ("0::/", {"cpu.max": "a riddle"}, 4),
    ],
)
def test_a_container_has_what_its_quota_grants(
    tmp_path: Path, allowed: set[int], group: str, files: dict[str, str], cores: int
) -> None:
    machine(tmp_path, {cpu: str(cpu) for cpu in range(4)})
    write(tmp_path / "proc/self/cgroup", group)
    for name, text in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, text)
    assert usable_cores(tmp_path) == cores


def test_there_is_one_here_at_least() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
