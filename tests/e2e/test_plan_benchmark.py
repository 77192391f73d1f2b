"""The benchmark of plans: its cases are possible, its bars are counted right, and it waits for a steady machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gptwo.base.errors import NativeLibraryError
from gptwo.config import PRESETS
from gptwo.kernels.library import instruction_sets

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CEILINGS = {
    "device": "cpu", "name": "a processor", "threads": 1, "matmul_flops_per_s": {"fp32": 1e11, "int8": 2e11},
    "model_matmul_flops_per_s": {"mlp.up": {"fp32": 1e11}}, "read_bytes_per_s": 3e10, "copy_bytes_per_s": 3e10,
    "dispatch_s": 1e-6, "launch_s": 1e-6, "transfers": None, "measured_at": "",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their modules can be imported, and their history goes elsewhere."""
    try:
        instruction_sets()
    except NativeLibraryError as error:
        pytest.skip(f"{error}")
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import record

    monkeypatch.setattr(record, "HISTORY", tmp_path / "history")


@pytest.mark.parametrize("size", PRESETS)
def test_cases_fit_the_context(size: str) -> None:
    import plan

    config = PRESETS[size]
    found = plan.cases(config)
    assert [case.kind for case in found] == ["train", *(["prefill", "decode", "decode"] * 2)]
    for case in found:
        longest = case.past + plan.TOKENS if case.kind == "decode" else case.tokens
        assert 1 <= longest <= config.context


def row(planned: float, took: float, memory: float = 1.0) -> dict[str, Any]:
    return {
        "predicted_s": planned, "measured_s": took, "floor_s": 0.1, "predicted_bytes": memory * 1e6,
        "measured_bytes": 1e6,
    }  # fmt: skip


def test_the_median_of_the_rounds_counts_and_memory_may_not_be_short() -> None:
    import plan

    rounds = [
        {"a": row(1.0, 1.0, 1.09), "b": row(1.0, 1.0, 0.96), "c": row(3.0, 2.0, 0.94)},
        {"a": row(1.0, 1.1, 1.09), "b": row(9.0, 1.0, 0.96), "c": row(3.0, 2.0, 0.94)},
        {"a": row(1.0, 9.0, 1.09), "b": row(1.0, 1.2, 0.96), "c": row(3.0, 2.0, 1.0)},
    ]
    found = {one["case"]: one for one in plan.verdicts(rounds)}
    assert {name: one["time"] for name, one in found.items()} == {"a": "HIT", "b": "HIT", "c": "MISS"}
    assert {name: one["memory"] for name, one in found.items()} == {"a": "HIT", "b": "HIT", "c": "MISS"}
    assert found["a"]["time_ratio"] == pytest.approx(1 / 1.1)


def test_a_machine_that_moved_is_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import plan

    asked: list[str] = []

    def ask(request: dict[str, Any]) -> Any:
        asked.append(request["what"])
        return CEILINGS if request["what"] == "ceilings" else {"seconds": [1.0], "peak_memory_bytes": 7}

    # The ceilings; then slower before the case, and still: new ceilings; and as it was then, after the case.
    speeds = iter([100.0, 50.0, 50.0, 51.0, 52.0])
    monkeypatch.setattr(plan, "ask", ask)
    monkeypatch.setattr(plan.time, "sleep", lambda _: None)
    monkeypatch.setattr(plan.Machine, "_read_now", lambda _: next(speeds))
    config = PRESETS["nano"]
    found = plan.timed(plan.cases(config)[1], config, tmp_path, plan.Machine(1))
    assert asked == ["ceilings", "ceilings", "prefill"]
    assert (found["steady"], found["tries"], found["measured_bytes"]) == (True, 1, 7)


def test_the_command_prints_its_bars_and_keeps_them_for_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import performance
    import plan
    import record

    def ask(request: dict[str, Any]) -> Any:
        return CEILINGS if request["what"] == "ceilings" else {"seconds": [0.5], "peak_memory_bytes": 7}

    monkeypatch.setattr(plan, "ask", ask)
    monkeypatch.setattr(plan, "write_model", lambda *_: None)
    monkeypatch.setattr(plan.Machine, "_read_now", lambda _: 1.0)
    monkeypatch.setattr(plan, "others_share", lambda: 0.0)
    monkeypatch.setattr(sys, "argv", ["plan.py", "--sizes", "nano", "--rounds", "1", "--threads", "1"])
    assert performance.plan_tables(record.HISTORY / "plan.jsonl").startswith("Not measured yet")
    plan.main()
    assert "time within 15%: 0 of 7" in capsys.readouterr().out
    (line,) = (record.HISTORY / "plan.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["hits"] == {"time": 0, "memory": 0}
    page = performance.plan_tables(record.HISTORY / "plan.jsonl")
    assert "| nano: decode int8 after 2 |" in page
    assert "Time: 0 of 7 cases" in page
