"""Where a figure was measured: machine, versions, commit, and how quiet it was. Imports torch only to ask it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gptwo.base.cores import usable_cores
from gptwo.base.version import __version__

# From this share of the machine that other processes take, figures are not of a quiet one.
BUSY = 0.1
_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors")
_GPU_QUERY = {
    "driver": "driver_version",
    "power_cap_w": "power.limit",
    "graphics_clock_mhz": "clocks.gr",
    "graphics_clock_max_mhz": "clocks.max.gr",
    "memory_clock_mhz": "clocks.mem",
    "persistence": "persistence_mode",
    "temperature_c": "temperature.gpu",
}


def processor() -> str:
    """The processor's name, as the system has it."""
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith(("model name", "Model")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor, cores and the versions of what computes."""
    import torch

    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy")},
    }


def environment(devices: Sequence[str] = ("cpu",), threads: int | None = None) -> dict[str, Any]:
    """Everything of this machine that a figure on ``devices`` depends on; what the system does not say is None.

    ``gpus`` are those of them, each by its device, and ``gpu`` is the first. ``threads`` are those that are measured
    with, torch's by default. Sizes are in bytes, clocks in MHz, power in watts.
    """
    import psutil
    import torch

    found = {
        **machine(),
        "system": platform.platform(),
        "flags": _flags(),
        "instruction_sets": _instruction_sets(),
        "governor": next(iter(_lines(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))), None),
        "usable_cores": usable_cores(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "blas": _blas(torch.__config__.show()),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "gptwo": __version__,
        "commit": commit(),
        "gpus": {name: _gpu(torch.device(name).index or 0) for name in devices if name.startswith("cuda")},
    }
    found["gpu"] = next(iter(found["gpus"].values()), None)
    if threads is not None:
        found["threads"] = threads
    return found


def _gpu(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call] # torch leaves it unannotated
        "tf32": torch.backends.cuda.matmul.fp32_precision == "tf32",
        **_driver(str(properties.uuid)),
    }


def _driver(uuid: str) -> dict[str, Any]:
    """What nvidia-smi says of the GPU, whose number may differ from torch's; all None without it."""
    command = [
        "nvidia-smi",
        f"--id=GPU-{uuid.removeprefix('GPU-')}",
        f"--query-gpu={','.join(_GPU_QUERY.values())}",
        "--format=csv,noheader,nounits",
    ]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
        values = [value.strip() for value in said.splitlines()[0].split(",")]
        found = dict(zip(_GPU_QUERY, values, strict=True))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return dict.fromkeys(_GPU_QUERY)
    return {name: _number(value) for name, value in found.items()}


def _number(value: str) -> float | str | None:
    if value.startswith("["):  # [N/A], [Not Supported]
        return None
    try:
        return float(value) if value.count(".") <= 1 else value
    except ValueError:
        return value


def commit() -> str | None:
    """The commit that runs, with + when files differ from it; None where gptwo lies in no repository.

    What benchmarks have found is not what runs: a round that adds to the history leaves the commit as it is.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)
        code = (":(top)", ":(top,exclude)benchmarks/history")
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", *code)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return None


def others_share(seconds: float = 0.5) -> float:
    """The share of all cores that other processes take while this one waits; 0 where /proc does not say."""

    def times() -> list[int]:
        line = next(iter(_lines(Path("/proc/stat"))), "cpu" + " 0" * 8)
        return [int(value) for value in line.split()[1:9]]

    before = times()
    time.sleep(seconds)
    spent = [after - at_first for at_first, after in zip(before, times(), strict=True)]
    idle = spent[3] + spent[4]  # idle, and waiting for a disk
    return 1 - idle / sum(spent) if sum(spent) else 0.0


class Others:
    """What other processes take of the processor, from here on; those that this one asked for are its own."""

    def __init__(self) -> None:
        self._began, (self._busy, self._own) = time.perf_counter(), _processor_seconds()

    def share(self) -> float:
        """Of all cores, 0 to 1."""
        import psutil

        busy, own = _processor_seconds()
        all_s = (time.perf_counter() - self._began) * (psutil.cpu_count() or 1)
        return max(0.0, (busy - self._busy - (own - self._own)) / all_s)


def _processor_seconds() -> tuple[float, float]:
    """Of all processes, and of this one with those that it has waited for."""
    import psutil

    times = psutil.cpu_times()
    busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return busy, sum(os.times()[:4])


def _lines(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def _flags() -> list[str] | None:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith(("flags", "Features")):
            return line.split(":", 1)[1].split()
    return None


def _instruction_sets() -> list[str]:
    from gptwo.base.errors import NativeLibraryError
    from gptwo.kernels.library import instruction_sets

    try:
        return instruction_sets()
    except NativeLibraryError:
        return []


def _blas(configuration: str) -> str | None:
    """The lines of torch's configuration that name its libraries of products."""
    names = ("Math Kernel Library", "MKL-DNN", "OpenBLAS", "Accelerate", "OpenMP")
    found = [line.strip(" -") for line in configuration.splitlines() if any(name in line for name in names)]
    return "; ".join(found) or None
