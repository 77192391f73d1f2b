"""The benchmark of plans: its cases are possible, its bars are counted right, and it waits for a steady machine."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
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
    import plan
    import record

    monkeypatch.setattr(record, "HISTORY", tmp_path / "history")
    monkeypatch.setattr(plan, "MEMORY", 1 << 10)


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
        "measured_bytes": 1e6, "steady": took < 9,
    }  # fmt: skip


def test_the_median_of_the_rounds_counts_and_memory_may_not_be_short() -> None:
    import plan_bars

    rounds = [
        {"a": row(1.0, 1.0, 1.09), "b": row(1.0, 1.0, 0.96), "c": row(3.0, 2.0, 0.94), "d": row(1.0, 1.0)},
        {
            "a": row(1.0, 1.1, 1.09),
            "b": row(9.0, 1.0, 0.96),
            "c": row(3.0, 2.0, 0.94),
            "d": row(1.0, 1.0, 0.94),
        },
        {"a": row(1.0, 9.0, 1.09), "b": row(1.0, 1.2, 0.96), "c": row(3.0, 2.0, 1.0), "d": row(1.0, 1.0)},
    ]
    found = {one["case"]: one for one in plan_bars.verdicts(rounds)}
    assert {name: one["time"] for name, one in found.items()} == {
        "a": "HIT", "b": "HIT", "c": "MISS", "d": "HIT",
    }  # fmt: skip
    # d was short in one round of three: never is never.
    assert {name: one["memory"] for name, one in found.items()} == {
        "a": "HIT", "b": "HIT", "c": "MISS", "d": "MISS",
    }  # fmt: skip
    assert (found["d"]["memory_ratio"], found["d"]["least_memory_ratio"]) == (1.0, 0.94)
    assert found["a"]["time_ratio"] == pytest.approx(1 / 1.1)
    assert {name: one["steady"] for name, one in found.items()} == {
        "a": False, "b": True, "c": True, "d": True,
    }  # fmt: skip


def test_the_newest_rounds_of_one_commit_count(tmp_path: Path) -> None:
    import plan_bars

    history = tmp_path / "plan.jsonl"
    lines = [
        ("old", "nano", 1),
        ("new", "nano", 2),
        ("old", "micro", 3),
        *(("new", "nano", n) for n in (4, 5, 6)),
    ]
    history.write_text(
        "".join(
            json.dumps({"commit": commit, "size": size, "cases": number}) + "\n"
            for commit, size, number in lines
        )
    )
    assert [[line["cases"] for line in kept] for kept in plan_bars.newest(history)] == [[4, 5, 6], [3]]
    assert plan_bars.newest(tmp_path / "none") == []


def test_a_machine_that_moved_is_measured_in_each_state_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import plan

    asked: list[str] = []

    def ask(request: dict[str, Any]) -> Any:
        asked.append(request["what"])
        return CEILINGS if request["what"] == "ceilings" else {"seconds": [1.0], "peak_memory_bytes": 7}

    # Ceilings; memory is slower after the case. New ones, while it changes: they count for nothing. New ones again.
    # Then another case in the first state: cores are slower after it, and as they were after the next try.
    speeds = iter(
        [
            *[(100, 10), (99, 10), (50, 10)],
            *[(50, 10), (80, 10)],
            *[(51, 10), (50, 10), (50, 10)],
            *[(98, 10), (100, 8)],
            *[(99, 10), (99, 10)],
        ]
    )
    monkeypatch.setattr(plan, "ask", ask)
    monkeypatch.setattr(plan.Machine, "_now", lambda _: next(speeds))
    monkeypatch.setattr(plan.Others, "share", lambda _: 0.0)
    config = PRESETS["nano"]
    case = replace(plan.cases(config)[0], batch=1000)
    machine = plan.Machine(1)
    found = plan.timed(case, config, tmp_path, machine)
    assert asked == ["ceilings", "train", "ceilings", "ceilings", "train"]
    assert (found["steady"], found["tries"], found["measured_bytes"]) == (True, 3, 7)
    asked.clear()
    assert plan.timed(case, config, tmp_path, machine)["steady"]
    assert asked == ["train"] * 2, "the ceilings of that state are known"


def test_a_short_case_is_the_median_of_several_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import plan

    answers = iter([(1.0, 10), (9.0, 30), (2.0, 20), (3.0, 15), (2.5, 25)])
    asked: list[int] = []

    def ask(request: dict[str, Any]) -> Any:
        asked.append(request["samples"])
        seconds, peak = next(answers)
        return {"seconds": [seconds], "peak_memory_bytes": peak}

    monkeypatch.setattr(plan, "ask", ask)
    case = plan.cases(PRESETS["nano"])[1]
    assert case.measure(tmp_path, 1, expected_s=0.001) == (2.5, 20)
    assert asked == [20] * 5


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
    monkeypatch.setattr(plan.Machine, "_now", lambda _: (1.0, 1.0))
    monkeypatch.setattr(plan, "others_share", lambda: 0.0)
    monkeypatch.setattr(sys, "argv", ["plan.py", "--sizes", "nano", "--rounds", "1", "--threads", "1"])
    assert performance.plan_tables(record.HISTORY / "plan.jsonl").startswith("Not measured yet")
    plan.main()
    assert capsys.readouterr().out.count("MISS") == 14
    (line,) = (record.HISTORY / "plan.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(json.loads(line)["cases"]) == 7
    page = performance.plan_tables(record.HISTORY / "plan.jsonl")
    assert "| nano: decode int8 after 2 |" in page
    assert "Time: 0 of 7 cases" in page
