"""Counters of energy: made of files and of a library that answers, as the machine at hand may have none."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gptwo.config import GPT2Config
from gptwo.perf import energy
from gptwo.perf.energy import EnergyCounter, NotMeasured, energy_counter, measure_energy
from random_checkpoint import write_random_checkpoint


def package(folder: Path, name: str, microjoules: int) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text("999999\n")
    return path


def test_packages_are_added_and_a_wheel_may_turn_over(tmp_path: Path) -> None:
    first, second = package(tmp_path, "intel-rapl:0", 900_000), package(tmp_path, "intel-rapl:1", 0)
    part = package(tmp_path, "intel-rapl:0:0", 5)
    counter = energy_counter("cpu", tmp_path)
    assert isinstance(counter, EnergyCounter)
    assert "2 packages" in counter.source
    assert counter.joules() == 0
    (first / "energy_uj").write_text("100000")  # 100,000 to its end, and as many after it
    (second / "energy_uj").write_text("300000")
    (part / "energy_uj").write_text("900000")  # of the first package's own
    assert counter.joules() == pytest.approx(0.5)
    assert counter.joules() == pytest.approx(0.5)


def test_no_counters_are_said_and_why(tmp_path: Path) -> None:
    found = energy_counter("cpu", tmp_path)
    assert isinstance(found, NotMeasured)
    assert "virtual machines" in found.why
    (package(tmp_path, "intel-rapl:0", 0) / "energy_uj").unlink()
    found = energy_counter("cpu", tmp_path)
    assert isinstance(found, NotMeasured)
    assert "root" in found.why
    assert isinstance(energy_counter("mps", tmp_path), NotMeasured)


class Library:
    """NVML with one GPU."""

    def __init__(self, *, code: int = 0) -> None:
        self.millijoules, self._code = 5_000, code

    def nvmlInit_v2(self) -> int:  # noqa: N802 - its name
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:  # noqa: N802 - its name
        return 0 if name == b"GPU-12-34" else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, millijoules: Any) -> int:  # noqa: N802 - its name
        millijoules._obj.value = self.millijoules
        return self._code


def with_gpu(monkeypatch: pytest.MonkeyPatch, library: Library, uuid: str = "12-34") -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)


def test_a_gpu_is_asked_by_its_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    with_gpu(monkeypatch, library)
    counter = energy_counter("cuda:0")
    assert isinstance(counter, EnergyCounter)
    before = counter.joules()
    library.millijoules += 2_500
    assert counter.joules() - before == 2.5
    with_gpu(monkeypatch, library, uuid="another")
    assert isinstance(energy_counter("cuda:0"), NotMeasured)
    with_gpu(monkeypatch, Library(code=3))
    assert isinstance(energy_counter("cuda:0"), NotMeasured)


def test_without_a_driver_it_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    found = energy_counter("cuda:0")
    assert isinstance(found, NotMeasured)
    assert "libnvidia-ml" in found.why


def test_joules_of_writing_are_divided_by_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPT2Config(n_layer=1, n_head=2, n_embd=16, context=32, vocab_size=37)
    folder = write_random_checkpoint(tmp_path / "m", config, dtype=torch.float32)
    readings = iter([10.0, 16.0])
    monkeypatch.setattr(
        energy, "energy_counter", lambda device: EnergyCounter("a wheel", lambda: next(readings))
    )
    found = measure_energy(str(folder), device="cpu", engine="native", at_least_s=0.0001)
    assert found["joules"] == 6.0
    assert found["tokens"] > 0
    assert found["tokens"] % 16 == 0
    monkeypatch.setattr(energy, "energy_counter", lambda device: NotMeasured("no wheel"))
    assert measure_energy(str(folder), device="cpu", engine="native") == {"why": "no wheel"}
