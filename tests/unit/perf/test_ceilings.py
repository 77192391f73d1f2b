"""Ceilings: what is measured, how it is kept, and what moved between two measurements."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_cuda import fake_cuda
from gptwo.base.errors import NativeLibraryError
from gptwo.kernels.library import Kernels, open_kernels
from gptwo.perf import ceilings, memory_speed, process, products
from gptwo.perf.ceilings import (
    Ceilings,
    cached_ceilings,
    drift,
    highest,
    measure_ceilings,
    of_floors,
    too_far,
)
from gptwo.perf.process import ask
from gptwo.perf.products import Shape

CPU = torch.device("cpu")
KNOWN = Ceilings(
    device="cpu",
    name="a processor",
    threads=2,
    matmul_flops_per_s={"fp32": 100.0, "int8": 200.0},
    model_matmul_flops_per_s={"mlp.up": {"fp32": 90.0}},
    read_bytes_per_s=50.0,
    copy_bytes_per_s=40.0,
    dispatch_s=1e-6,
    launch_s=None,
    transfers=None,
    measured_at="2026-01-01T00:00:00+00:00",
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece of work so small that it takes no time."""
    for device in ("cpu", "cuda"):
        monkeypatch.setitem(products.LARGE, device, Shape(8, 40, 64))
        monkeypatch.setitem(products._ROWS, device, 3)
        monkeypatch.setitem(memory_speed._BYTES, device, 4 << 20)
    monkeypatch.setattr(products, "MODEL_PRODUCTS", {"mlp.up": (6, 24), "head": (6, 70)})
    monkeypatch.setattr(memory_speed, "_LAUNCHES", 2)


@pytest.fixture
def kernels() -> Kernels | None:
    try:
        return open_kernels(1)
    except NativeLibraryError:
        return None


@pytest.mark.usefixtures("small")
def test_all_of_it_is_measured_on_the_cpu(kernels: Kernels | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptwo.perf.clock.time.perf_counter", Ticks())
    threads = torch.get_num_threads()
    try:
        found = measure_ceilings("cpu", threads=1, quick=True)
    finally:
        torch.set_num_threads(threads)
    dtypes = {"fp32", "bf16"} | ({"int8", "int4"} if kernels else set())
    assert (found.device, found.threads, found.source) == ("cpu", 1, "measured")
    assert set(found.matmul_flops_per_s) == dtypes
    assert {name: set(speeds) for name, speeds in found.model_matmul_flops_per_s.items()} == {
        "mlp.up": dtypes,
        "head": dtypes,
    }
    # On a clock that ticks once in a piece of work, the speed of a product is its FLOPs, and the largest is the best.
    assert found.matmul_flops_per_s["fp32"] == 2 * 8 * 40 * 64
    assert found.model_matmul_flops_per_s["head"]["bf16"] == 2 * 3 * 6 * 70
    assert found.copy_bytes_per_s == 4 << 20
    assert found.dispatch_s == 1 / 2
    assert (found.launch_s == 1 / (64 * 7)) if kernels else found.launch_s is None
    assert found.transfers is None
    assert Ceilings.from_json(json.loads(json.dumps(found.to_json()))) == found


class Ticks:
    """A clock that is a second later whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.usefixtures("small")
def test_on_a_gpu_everything_is_where_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under fake CUDA tensors an operation on tensors of two devices raises."""

    def clock(device: torch.device) -> Any:
        assert device.type == "cuda"
        return lambda work: (work(), 2.0)[1]

    for module in (products, memory_speed):
        monkeypatch.setattr(module, "device_clock", clock)
    with fake_cuda() as device:
        speeds = products.flops_per_s([Shape(4, 6, 8)], device, None, budget_s=0.0)
        assert speeds == {"fp32": [192.0], "bf16": [192.0], "fp16": [192.0]}
        assert memory_speed.read_bytes_per_s(device, None, budget_s=0.0) == (4 << 20) / 2
        assert memory_speed.copy_bytes_per_s(device, budget_s=0.0) == (4 << 20) / 2
        assert memory_speed.launch_s(device, None, budget_s=0.0) == 1.0
        assert memory_speed.dispatch_s(device, budget_s=0.0) > 0


def test_the_native_kernels_alone_have_whole_numbers(kernels: Kernels | None) -> None:
    if kernels is None:
        pytest.skip("the native kernels are not built")
    without = products.flops_per_s([Shape(2, 6, 8)], CPU, None, budget_s=0.0)
    assert set(without) == {"fp32", "bf16"}
    assert set(products.flops_per_s([Shape(2, 6, 8)], CPU, kernels, budget_s=0.0)) == {
        "fp32",
        "bf16",
        "int8",
        "int4",
    }


def test_what_a_process_takes_is_measured_in_one_of_its_own() -> None:
    found = {kind: ask({"what": "process", "kind": kind}) for kind in ("torch", "train")}
    assert 1 << 24 < found["torch"] < found["train"] < 1 << 31


# --- the cache ------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """The requests that were made of workers, none of which ran; the cache is in ``tmp_path``."""
    requests: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> Any:
        requests.append(request)
        return replace(KNOWN, device=request["device"], threads=request["threads"]).to_json()

    monkeypatch.setattr(process, "ask", answer)
    monkeypatch.setattr(ceilings, "others_share", lambda: 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return requests


def test_measured_once_for_a_device_and_its_threads(asked: list[dict[str, Any]]) -> None:
    first = cached_ceilings("cpu", 2)
    assert cached_ceilings("cpu", 2) == first == KNOWN
    assert asked == [{"what": "ceilings", "device": "cpu", "threads": 2}]
    assert cached_ceilings("cpu", 1).threads == 1
    assert len(asked) == 2


def test_without_measuring_only_what_is_known(asked: list[dict[str, Any]]) -> None:
    assert cached_ceilings("cpu", 2, measure=False) is None
    cached_ceilings("cpu", 2)
    assert cached_ceilings("cpu", 2, measure=False) == KNOWN
    assert len(asked) == 1


def test_measured_anew_when_asked(asked: list[dict[str, Any]]) -> None:
    cached_ceilings("cpu", 2)
    assert cached_ceilings("cpu", 2, anew=True) == KNOWN
    assert len(asked) == 2


def test_what_a_busy_machine_reached_is_not_kept(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.0, 0.3])
    monkeypatch.setattr(ceilings, "others_share", lambda: next(shares))
    said: list[str] = []
    assert cached_ceilings("cpu", 2, say=said.append) == KNOWN
    assert said == ["other processes took 30% of this machine: what was measured is used once, and not kept"]
    assert not list(tmp_path.rglob("*.json"))


def test_other_versions_measure_anew(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    cached_ceilings("cpu", 2)
    monkeypatch.setattr(ceilings, "__version__", "0.0.0")
    cached_ceilings("cpu", 2)
    assert len(asked) == 2


@pytest.mark.parametrize("content", ["", "{}", '{"device": "cpu"}', "[1]"])
def test_a_damaged_cache_is_measured_anew(asked: list[dict[str, Any]], tmp_path: Path, content: str) -> None:
    cached_ceilings("cpu", 2)
    (file,) = tmp_path.rglob("*.json")
    file.write_text(content, encoding="utf-8")
    assert cached_ceilings("cpu", 2) == KNOWN
    assert len(asked) == 2


def test_a_cache_that_cannot_be_written_to_is_no_fault(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_ceilings("cpu", 2) == cached_ceilings("cpu", 2) == KNOWN
    assert len(asked) == 2


# --- drift ----------------------------------------------------------------------------------------------------------


def test_drift_is_relative_to_what_was_before() -> None:
    after = replace(
        KNOWN, matmul_flops_per_s={"fp32": 90.0, "bf16": 5.0}, read_bytes_per_s=60.0, copy_bytes_per_s=40.0
    )
    assert drift(KNOWN, after) == pytest.approx(
        {"matmul fp32": -0.1, "read": 0.2, "copy": 0.0, "dispatch": 0.0}
    )


def test_drift_has_every_ceiling_and_allows_microseconds_more() -> None:
    def on_gpu(launch_s: float, latency_s: float, bytes_per_s: float) -> Ceilings:
        fit = {"latency_s": latency_s, "bytes_per_s": bytes_per_s, "samples": []}
        both = {"host_to_device": {"pinned": fit}}
        return replace(KNOWN, device="cuda:0", launch_s=launch_s, transfers=both)

    before = on_gpu(1e-6, 1e-5, 1e10)
    moved = drift(before, on_gpu(1.2e-6, 1.3e-5, 0.7e10))
    assert {name: round(moved[name], 6) for name in moved if moved[name]} == {
        "launch": 0.2, "host_to_device pinned latency": 0.3, "host_to_device pinned": -0.3
    }  # fmt: skip
    assert too_far(moved) == ["host_to_device pinned by -30%", "host_to_device pinned latency by +30%"]
    # A bandwidth is held to a bandwidth's limit, but for that of pageable memory.
    moved = {
        "host_to_device pinned": 0.06,
        "host_to_device pageable": 0.2,
        "host_to_device pinned latency": 0.2,
    }
    assert too_far(moved) == ["host_to_device pinned by +6%"]
    assert of_floors({**moved, "read": 0.1, "copy": 0.1, "matmul fp32": 0.1}) == {
        "read": 0.1,
        "matmul fp32": 0.1,
    }
    assert too_far(drift(KNOWN, replace(KNOWN, dispatch_s=1.3e-6, copy_bytes_per_s=42.4))) == [
        "copy by +6%", "dispatch by +30%"
    ]  # fmt: skip
    # A latency that was fitted as none has nothing that it could move by.
    assert "host_to_device pinned latency" not in drift(on_gpu(1e-6, 0.0, 1e10), before)


def test_the_highest_of_two_is_each_ones_best() -> None:
    after = replace(KNOWN, matmul_flops_per_s={"fp32": 90.0, "int8": 220.0}, read_bytes_per_s=60.0)
    found = highest(KNOWN, after)
    assert found.matmul_flops_per_s == {"fp32": 100.0, "int8": 220.0}
    assert (found.read_bytes_per_s, found.copy_bytes_per_s) == (60.0, 40.0)
