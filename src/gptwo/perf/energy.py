"""Joules from the counters that the machine has: the processor's packages (RAPL) and NVIDIA's GPUs (NVML)."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_NVML_OK = 0


@dataclass(frozen=True)
class EnergyCounter:
    """``joules()`` since some moment, never falling; ``source`` says what it counts."""

    source: str
    joules: Callable[[], float]


@dataclass(frozen=True)
class NotMeasured:
    """Why a device has no counter that can be read."""

    why: str


def measure_energy(
    model: str,
    *,
    device: str,
    engine: str,
    dtype: str | None = None,
    threads: int | None = None,
    at_least_s: float = 3.0,
) -> dict[str, Any]:
    """Joules of writing with this engine, one text after another for ``at_least_s``: ``{joules, tokens, seconds,
    source}``.

    A text is half of what the context holds, at most 256 tokens. Where no counter can be read: ``{why}``.
    """
    counter = energy_counter(device)
    if isinstance(counter, NotMeasured):
        return {"why": counter.why}
    from gptwo.infer.engines import load_engine

    loaded = load_engine(Path(model), engine=engine, device=device, dtype=dtype, threads=threads)
    text = min(256, max(1, loaded.config.context // 2))
    session = loaded.start(slots=1, capacity=text)

    def write() -> None:
        session.truncate(0, 0)
        for _ in range(text):
            session.read_top([0], [np.zeros(1, dtype=np.int64)], [1], 1)

    write()
    tokens, joules, began = 0, counter.joules(), time.perf_counter()
    while time.perf_counter() - began < at_least_s:
        write()
        tokens += text
    seconds = time.perf_counter() - began
    return {
        "joules": counter.joules() - joules,
        "tokens": tokens,
        "seconds": seconds,
        "source": counter.source,
    }


def energy_counter(device: str, powercap: Path = Path("/sys/class/powercap")) -> EnergyCounter | NotMeasured:
    """The counter of ``device``. Others' work on the same device is counted, too: nothing tells it apart."""
    if device.startswith("cuda"):
        return _of_gpu(device)
    if device != "cpu":
        return NotMeasured(f"no counter is known for {device}")
    return _of_packages(powercap)


def _of_packages(powercap: Path) -> EnergyCounter | NotMeasured:
    # intel-rapl:0, intel-rapl:1 …: a package each, AMD's too; their parts (intel-rapl:0:1) are in them already.
    packages = sorted(path for path in powercap.glob("intel-rapl:*") if path.name.count(":") == 1)
    if not packages:
        return NotMeasured(f"there are no RAPL counters in {powercap}; virtual machines rarely have them")
    try:
        wheels = [_Wheel(path) for path in packages]
    except (OSError, ValueError) as error:
        return NotMeasured(f"the RAPL counters cannot be read ({error}); mostly root alone may")
    return EnergyCounter(f"RAPL, {len(wheels)} packages", lambda: sum(wheel.joules() for wheel in wheels))


class _Wheel:
    """One package's counter, which begins again at zero after its range; read at least once a turn (minutes)."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last, self._total = int(self._file.read_text()), 0

    def joules(self) -> float:
        now = int(self._file.read_text())
        self._total += (now - self._last) % (self._range + 1)
        self._last = now
        return self._total / 1e6


def _of_gpu(device: str) -> EnergyCounter | NotMeasured:
    import torch

    try:
        # By its identity: NVML counts all GPUs, and CUDA_VISIBLE_DEVICES may hide some from torch.
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except (OSError, RuntimeError, AssertionError) as error:
        return NotMeasured(f"NVML is not there ({error})")
    return _of_nvml(nvml, name)


def _of_nvml(nvml: ctypes.CDLL, name: str) -> EnergyCounter | NotMeasured:
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()

    def energy() -> int:
        return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)))

    for code in (
        nvml.nvmlInit_v2(),
        nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)),
        energy(),
    ):
        if code != _NVML_OK:
            return NotMeasured(
                f"NVML gives no energy for {name} (error {code}); GPUs before Volta have no counter"
            )

    def joules() -> float:
        energy()
        return millijoules.value / 1e3

    return EnergyCounter("NVML, the whole board", joules)
