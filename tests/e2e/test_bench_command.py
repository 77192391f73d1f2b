"""``gptwo bench`` as a user runs it: one command, a record, a page and its pictures; and two records compared."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from command import command, command_line, done
from gptwo.config import GPT2Config
from gptwo.perf.ceilings import Ceilings
from gptwo.perf.record import KEYS, SCHEMA, read_record
from gptwo.perf.statistics import summarise
from gptwo.tokenizer.build import build_byte
from random_checkpoint import write_random_checkpoint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=64, vocab_size=257, dropout=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_random_checkpoint(tmp_path_factory.mktemp("models") / "tiny", CONFIG, dtype=torch.float32)
    build_byte().save(folder)
    return folder


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one run wrote what it can write, and what it said."""
    folder = tmp_path_factory.mktemp("bench")
    files = ("--json", folder / "a.json", "--html", folder / "a.html", "--png", folder / "plots")
    outcome = done("bench", model, "--quick", "--device", "cpu", "--threads", 1, *files)
    (folder / "out").write_text(outcome.out, encoding="utf-8")
    (folder / "err").write_text(outcome.err, encoding="utf-8")
    return folder


def test_one_command_makes_the_record_the_page_and_its_pictures(folder: Path) -> None:
    record = read_record(folder / "a.json")
    assert set(record) == set(KEYS)
    assert record["environment"]["threads"] == 1
    assert {case["kind"] for case in record["cases"] if case["measured"]} == {
        "forward", "prefill", "decode", "train"
    }  # fmt: skip
    assert all(row["ok"] for row in record["agreement"])
    page = (folder / "a.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 6
    assert {file.stem for file in (folder / "plots").iterdir()} == {
        "crossing", "latency-by-batch", "roofline", "decode", "training-step", "initialisation"
    }  # fmt: skip


def test_a_start_is_split_and_begins_with_the_process_itself(folder: Path) -> None:
    for entry in read_record(folder / "a.json")["initialisation"]:
        steps = {step["name"]: step["summary"]["median"] for step in entry["steps"]}
        assert list(steps) == ["python", "import", "device", "load", "first token"]
        assert 0 < steps["python"] < 30
        assert entry["total"]["median"] == pytest.approx(sum(steps.values()))
        assert {"read cold", "read warm"} <= {step["name"] for step in entry["beside"]}


def test_what_was_found_is_printed_and_every_step_is_told(folder: Path) -> None:
    out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
    assert "the paper's §7" in out
    assert "CPU or GPU: " in out
    assert out.splitlines()[-1] == f"written: {folder / 'plots'}"
    steps = err.splitlines()
    number = len(steps)
    assert steps[-1].startswith(f"[{number}/{number}] ")
    assert steps[-1].endswith("ceilings of cpu")


def test_a_run_that_is_ended_leaves_a_record_of_what_there_was(model: Path, tmp_path: Path) -> None:
    files = ("--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    flags = ("--quick", "--device", "cpu", "--engine", "native", "--dtype", "fp32", "--threads", 1)
    with subprocess.Popen(
        command_line("bench", model, *flags, *files),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "round 2" in line:
                run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=60) == 130
    record = read_record(tmp_path / "a.json")
    assert {case["kind"] for case in record["cases"] if case["measured"]} == {"forward", "prefill", "decode"}
    assert all(len(case["rounds"]) <= 1 for case in record["cases"])
    assert record["left_out"][-1]["what"].startswith("round 2 of native fp32 on cpu")
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def changed(record: dict[str, Any], factor: float) -> dict[str, Any]:
    """The record of as many processes as the full form has, the first case ``factor`` times as long."""
    found: dict[str, Any] = json.loads(json.dumps(record))
    case = next(case for case in found["cases"] if case["measured"])
    seconds, case["rounds"] = case["seconds"], [*case["rounds"], *case["rounds"]]
    for name in ("median", "low", "high", "p50", "p95"):
        seconds[name] *= factor
    return found


def test_two_records_fail_only_where_the_intervals_are_apart(folder: Path, tmp_path: Path) -> None:
    quick, before, after = folder / "a.json", tmp_path / "before.json", tmp_path / "after.json"
    said = done("bench", "compare", quick, quick).out.splitlines()[-2]
    assert "0 of" in said
    assert "too few processes" in said
    before.write_text(json.dumps(changed(read_record(quick), 1.0)), encoding="utf-8")
    for factor, code in ((1.0001, 0), (1000.0, 1), (0.001, 0)):
        after.write_text(json.dumps(changed(read_record(quick), factor)), encoding="utf-8")
        assert command("bench", "compare", before, after).code == code, factor


@pytest.mark.parametrize(
    ("flag", "name"),
    [("--json", "none/a.json"), ("--html", "none/a.html"), ("--json", "."), ("--png", "file/plots")],
)
def test_what_cannot_be_written_is_said_before_anything_is_measured(
    flag: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was measured")

    monkeypatch.setattr("gptwo.perf.bench.bench", never)
    (tmp_path / "file").write_text("", encoding="utf-8")
    line = command("bench", "micro", flag, tmp_path / name).error_line()
    assert line.startswith("StorageError: cannot ")
    assert str(tmp_path) in line


CEILINGS = Ceilings(
    device="cpu",
    name="A processor",
    threads=2,
    matmul_flops_per_s={"fp32": 1e11},
    model_matmul_flops_per_s={},
    read_bytes_per_s=2e10,
    copy_bytes_per_s=1e10,
    dispatch_s=1e-6,
    launch_s=None,
    transfers=None,
    measured_at="2026-11-24T00:00:00+00:00",
)


def a_record() -> dict[str, Any]:
    """One case, and nothing else that ``compare`` looks at."""
    return {
        **{key: {} for key in KEYS},
        "schema": SCHEMA,
        "model": {"name": "a", "config": {}, "weights": "random"},
        "cases": [
            {
                "id": "a",
                "measured": True,
                "seconds": summarise([1.0, 2.0]).to_json(),
                "rounds": [[1.0], [2.0]],
            }
        ],
        "quiet": {"ok": True, "reasons": []},
        "ceilings": [],
        "initialisation": [],
    }


def ceilings(**damage: Any) -> dict[str, Any]:
    """Of a record, those after everything else damaged; ``...`` leaves a key out."""
    damaged = {name: value for name, value in {**CEILINGS.to_json(), **damage}.items() if value is not ...}
    return {"ceilings": [{"device": "cpu", "before": CEILINGS.to_json(), "after": damaged}]}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"cases": [{}]}, "cases[0] has no 'id'"),
        ({"cases": None}, "cases is null, not a list"),
        ({"cases": ["a"]}, 'cases[0] is "a", not an object'),
        ({"cases": [{"id": 1, "measured": False}]}, "cases[0].id is 1"),
        ({"model": []}, "model is [], not an object"),
        ({"environment": 3}, "environment is 3, not an object"),
        ({"quiet": None}, "quiet is null, not an object"),
        (
            {"ceilings": [{"device": "cpu", "before": {}, "after": None}]},
            "ceilings[0].before has no 'device'",
        ),
        ({"initialisation": [{"total": 1}]}, "initialisation[0] has no 'device'"),
        ({"cases": [{"id": "a", "measured": True, "seconds": None}]}, "cases[0] has no 'rounds'"),
        (
            {"cases": [{"id": "a", "measured": True, "rounds": [], "seconds": None}]},
            "cases[0].seconds is null, not an object",
        ),
        (
            {"cases": [{"id": "a", "measured": True, "rounds": [], "seconds": {"median": 1.0}}]},
            "cases[0].seconds has no 'low'",
        ),
        ({"ceilings": [{"device": "cpu", "before": CEILINGS.to_json()}]}, "ceilings[0] has no 'after'"),
        (ceilings(name=...), "ceilings[0].after has no 'name'"),
        (ceilings(threads=...), "ceilings[0].after has no 'threads'"),
        (ceilings(measured_at=...), "ceilings[0].after has no 'measured_at'"),
        (
            ceilings(matmul_flops_per_s={"fp32": None}),
            "ceilings[0].after.matmul_flops_per_s.fp32 is null",
        ),
        (
            ceilings(transfers={"host_to_device": {"pinned": {"latency_s": 0.0, "bytes_per_s": None}}}),
            "ceilings[0].after.transfers.host_to_device.pinned.bytes_per_s is null",
        ),
        ({"environment": {"gpus": [{"name": "a"}]}}, 'environment.gpus is [{"name": "a"}], not an object'),
        ({"environment": {"gpus": {"cuda:0": {}}}}, "environment.gpus.cuda:0 has no 'name'"),
        ({"environment": {"gpu": {"memory": 1}}}, "environment.gpu has no 'name'"),
    ],
)
def test_a_damaged_record_is_one_line(damage: dict[str, Any], said: str, tmp_path: Path) -> None:
    whole = a_record()
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(whole), encoding="utf-8")
    done("bench", "compare", good, good)
    bad.write_text(json.dumps({**whole, **damage}), encoding="utf-8")
    for pair in ((good, bad), (bad, good), (bad, bad)):
        line = command("bench", "compare", *pair).error_line()
        assert line.startswith("DataError: ")
        assert f"bad.json is damaged: {said}; expected" in line


def test_keys_that_a_later_version_added_are_no_damage(tmp_path: Path) -> None:
    known, later = tmp_path / "known.json", tmp_path / "later.json"
    of_cpu = {"device": "cpu", "before": CEILINGS.to_json(), "after": CEILINGS.to_json(), "drift": {}}
    record = {**a_record(), "ceilings": [of_cpu]}
    known.write_text(json.dumps(record), encoding="utf-8")
    of_cpu["before"]["added"] = of_cpu["after"]["added"] = record["cases"][0]["seconds"]["added"] = [1]
    later.write_text(json.dumps({**record, "added": 1}), encoding="utf-8")
    for pair in ((known, later), (later, known)):
        assert "0 of 1 slower" in done("bench", "compare", *pair).out


def test_what_no_check_looked_for_is_one_line(tmp_path: Path) -> None:
    record, path = a_record(), tmp_path / "zero.json"
    record["cases"][0]["seconds"]["median"] = 0
    path.write_text(json.dumps(record), encoding="utf-8")
    line = command("bench", "compare", path, path).error_line()
    assert line.startswith(f"DataError: {path} and {path} cannot be compared (ZeroDivisionError(")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing-here",), "nothing-here"),
        (("gpt2", "--engine", "abacus"), "native, torch"),
        (("gpt2", "--device", "cuda:9"), "cuda:9"),
        (("gpt2", "--gpu", "abacus"), "a100"),
        (("gpt2", "--gpu", "raspberry-pi-5"), "a100"),
        (("micro", "--threads", "0"), "--threads 0 is not possible; expected 1 to"),
        (("micro", "--threads", "-1"), "--threads -1 is not possible"),
        (("micro", "--threads", "100000"), "--threads 100000 is not possible"),
        (("gpt2", "micro"), "expected one"),
        (("compare", "only.json"), "expected two"),
        (("compare", "no.json", "no.json"), "no.json"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    assert said in command("bench", *arguments).error_line()


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the benchmarks' lines go; their modules can be imported."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import record

    monkeypatch.setattr(record, "HISTORY", tmp_path / "history")
    return tmp_path / "history"


def test_a_record_that_is_kept_makes_the_tables_of_the_page(folder: Path, history: Path) -> None:
    import bench
    import performance

    assert performance.bench_tables(history / "bench.jsonl").startswith("Not measured yet")
    assert bench.main([str(folder / "a.json")]) == 0
    (kept,) = (history / "bench.jsonl").read_text(encoding="utf-8").splitlines()
    assert "samples" not in kept
    assert "rounds" not in kept
    record = read_record(folder / "a.json")
    made = performance.bench_tables(history / "bench.jsonl")
    assert "| forward pass, here 1×64 tokens (§7.2) | about 20 s | about 30 ms | " in made
    assert "(a prediction)" in made
    assert record["crossing"]["verdict"] in made
    rows = [
        line for line in made.splitlines() if line.startswith(("| a token", "| prompt", "| forward pass, 1"))
    ]
    assert any(line.startswith("| training step, 1×64 | - | - | ") for line in made.splitlines())
    shapes = {
        (case["kind"], case["batch"], case["tokens"], case["past"], case["with_text"])
        for case in record["cases"]
        if case["measured"] and case["kind"] != "train"
    }
    assert len(rows) == len(shapes) - sum(shape[0] == "forward" and shape[1] > 1 for shape in shapes)


def test_ceilings_that_repeat_are_told_from_those_that_do_not(
    history: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ceilings
    import performance

    speeds = iter([100e9, 50e9, 55e9, 104e9, 98e9, 99e9])
    known = {
        "device": "cpu", "name": "a processor", "threads": 1, "matmul_flops_per_s": {"fp32": 1e11},
        "model_matmul_flops_per_s": {}, "read_bytes_per_s": 3e10, "copy_bytes_per_s": 3e10,
        "dispatch_s": 1e-6, "launch_s": 1e-6, "transfers": None, "measured_at": "",
    }  # fmt: skip
    monkeypatch.setattr(
        ceilings, "ask", lambda question: {**known, "matmul_flops_per_s": {"fp32": next(speeds)}}
    )
    # While the second is measured something else begins, and ends; that one is left out.
    others = iter([0.02, 0.02, 0.5, 0.02, 0.02, 0.02, 0.02])
    monkeypatch.setattr(ceilings, "others_share", lambda seconds: next(others))
    assert ceilings.main(["--runs", "4", "--quick"]) == 0
    # From 104 to 98 it is more than 5%; from 100 to 104 and from 98 to 99 it is not.
    assert "1 of 3 steps" in capsys.readouterr().out
    made = performance.ceilings_tables(history / "ceilings.jsonl")
    assert "| fp32 products, GFLOP/s | 99.5 | 98.0 to 104.0 | 6.1% | MISS |" in made
    assert "| memory read, GB/s | 30.0 | 30.0 to 30.0 | 0.0% | HIT |" in made
    assert "in 1 of 3 steps" in made
    assert "2 more were left out" in made
