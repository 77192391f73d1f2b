"""What is known of the machine, and of a GPU through its driver's own tool."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gptwo.perf import environment as module
from gptwo.perf.environment import environment, others_share


def test_the_environment_is_json_and_says_what_matters() -> None:
    found = json.loads(json.dumps(environment()))
    for name in ("processor", "cores", "threads", "memory_bytes", "torch", "versions", "gptwo", "system"):
        assert found[name], name
    assert found["gpu"] is None
    assert found["usable_cores"] <= found["cores"]
    assert found["gpus"] == {}
    assert environment(threads=7)["threads"] == 7


def test_every_gpu_that_is_measured_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_gpu", lambda index: {"name": f"GPU {index}"})
    found = environment(["cpu", "cuda:1", "cuda:0"])
    assert found["gpus"] == {"cuda:1": {"name": "GPU 1"}, "cuda:0": {"name": "GPU 0"}}
    assert found["gpu"] == {"name": "GPU 1"}


SAID = "570.1, 300.00, 1755, 1980, 2619, Enabled, [N/A]\n"


def test_what_nvidia_smi_says(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=SAID)

    monkeypatch.setattr(module.subprocess, "run", run)
    assert module._driver("GPU-1234") == {
        "driver": 570.1,
        "power_cap_w": 300.0,
        "graphics_clock_mhz": 1755.0,
        "graphics_clock_max_mhz": 1980.0,
        "memory_clock_mhz": 2619.0,
        "persistence": "Enabled",
        "temperature_c": None,
    }
    assert commands[0][1] == "--id=GPU-1234"


def test_without_nvidia_smi_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert set(module._driver("1234").values()) == {None}


def test_the_share_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 of 40 ticks of two cores were spent by others; 30 were idle."""
    lines = iter([["cpu 100 0 50 800 50 0 0 0 0 0"], ["cpu 106 0 54 820 60 0 0 0 0 0"]])
    monkeypatch.setattr(module, "_lines", lambda path: next(lines))
    assert others_share(0.0) == pytest.approx(10 / 40)


def test_where_proc_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_lines", lambda path: [])
    assert others_share(0.0) == 0.0


def test_outside_a_repository_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "environment.py"))
    assert module.commit() is None
