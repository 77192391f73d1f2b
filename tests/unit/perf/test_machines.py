"""The table of machines: every figure with a source, and what a plan makes of it."""

from __future__ import annotations

import pytest

from gptwo.base.errors import DeviceError
from gptwo.perf.machines import EFFICIENCY, MACHINES, machine


def test_a_gpu_s_ceilings_are_its_peaks_times_what_was_reached() -> None:
    a100 = machine("a100")
    assert (a100.memory_bytes, a100.link_bytes_per_s) == (80 << 30, 300e9)
    writing, training = a100.ceilings(training=False), a100.ceilings(training=True)
    share = EFFICIENCY["cuda"].products
    assert writing.matmul_flops_per_s == {
        "fp32": 19.5e12 * share,
        "bf16": 312e12 * share,
        "fp16": 312e12 * share,
        "int8": 624e12 * share,
    }
    assert training.matmul_flops_per_s["fp32"] == 156e12 * share, "TF32"
    assert training.model_matmul_flops_per_s["mlp.up"]["bf16"] == 312e12 * share
    assert writing.read_bytes_per_s == 2.039e12 * EFFICIENCY["cuda"].memory
    assert (writing.source, writing.device) == ("datasheet", "cuda")


def test_a_cpu_s_peak_is_cores_times_clock_times_lanes() -> None:
    pi = machine("raspberry-pi-5")
    # 4 cores · 2.4 GHz · 2 multiply-add units · 4 lanes · 2.
    assert pi.flops_per_s["fp32"] == pytest.approx(153.6e9)
    assert pi.memory_bytes is None
    assert pi.ceilings(training=True).matmul_flops_per_s["fp32"] == pytest.approx(
        153.6e9 * EFFICIENCY["cpu"].products
    )


def test_error_correction_takes_a_sixteenth_where_the_memory_keeps_it() -> None:
    there = {name: machine(name).memory_bytes for name in ("t4", "l4", "a10", "l40s", "rtx4090", "a100")}
    assert {name: (size or 0) / 2**30 for name, size in there.items()} == {
        "t4": 15, "l4": 22.5, "a10": 22.5, "l40s": 45, "rtx4090": 24, "a100": 80,
    }  # fmt: skip


def test_what_has_no_bf16_says_none() -> None:
    assert "bf16" not in machine("t4").flops_per_s
    assert "bf16" not in machine("v100").ceilings(training=True).matmul_flops_per_s
    assert machine("t4").ceilings(training=True).matmul_flops_per_s["fp32"] == 8.1e12 * 0.72, "no TF32"


@pytest.mark.parametrize("name", MACHINES)
def test_every_machine_names_its_source_and_is_plausible(name: str) -> None:
    found = MACHINES[name]
    assert found.name == name
    assert any(word in found.source for word in ("Datasheet", "whitepaper", "product", "specifications"))
    assert "http" not in found.source
    # FLOPs for a byte: outside of these somebody has slipped by a factor of a thousand.
    assert 4 < found.flops_per_s["fp32"] / found.read_bytes_per_s < 200
    assert found.flops_per_s.get("bf16", 1e18) >= found.flops_per_s["fp32"]
    assert 0.5 < found.efficiency.products <= 1
    assert 0.5 < found.efficiency.memory <= 1


def test_an_unknown_machine_lists_those_that_are_known() -> None:
    with pytest.raises(DeviceError, match=r"device 'h9000' is none of this machine's .* one of h200, h100, "):
        machine("h9000")
    assert machine("A100") is machine("a100")
