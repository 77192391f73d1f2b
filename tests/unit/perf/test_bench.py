"""``gptwo bench`` but for the clock: which questions are asked, in which order, and what the record says of them."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench_answers import CEILINGS, Answers

from gptwo.base.errors import CheckpointError, ConfigError, DeviceError
from gptwo.config import GPT2Config
from gptwo.costs import forward_flops, parameter_count, training_flops
from gptwo.perf.bench import bench, was_stopped
from gptwo.perf.compare import compare
from gptwo.perf.crossing import PROMPT
from gptwo.perf.figures import floor
from gptwo.perf.measuring import QUICK_S, STOPPED, Settings
from gptwo.perf.record import KEYS
from gptwo.perf.report import html
from gptwo.perf.statistics import (
    LEAST_FOR_INTERVAL,
    LEAST_FOR_P99,
    LEAST_PROCESSES,
    summarise_rounds,
)
from gptwo.perf.summary import summary
from gptwo.perf.worker import answer
from gptwo.perf.workload import FULL, QUICK, Case, Contender, contenders, groups
from gptwo.tokenizer.build import build_byte
from random_checkpoint import write_random_checkpoint

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=64, vocab_size=257, dropout=0.0)
NATIVE, TORCH = Contender("cpu", "native", "fp32"), Contender("cpu", "torch", "fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    folder = write_random_checkpoint(tmp_path_factory.mktemp("models") / "tiny", CONFIG, dtype=torch.float32)
    build_byte().save(folder)
    return folder


def settings(folder: Path, **changes: Any) -> Settings:
    return Settings(**{"model": str(folder), "devices": ("cpu",), "quick": True, **changes})


def test_a_record_of_answers(folder: Path) -> None:
    told: list[tuple[int, int, str]] = []
    answers = Answers()
    record = bench(settings(folder), ask=answers, progress=lambda *said: told.append(said))
    assert set(record) == set(KEYS)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["model"]["parameters"] == parameter_count(CONFIG)
    assert [device["measured"] for device in record["devices"]] == [True, False]
    assert record["energy"] == {"measured": False, "rows": [], "why": "--quick has no time for it"}
    (native, *_) = record["initialisation"]
    assert [step["name"] for step in native["steps"]] == ["python", "import", "first token"]
    assert [(step["summary"], step["note"]) for step in native["beside"]] == [
        (None, "no way to empty the cache")
    ]
    assert native["total"]["n"] == QUICK.starts
    # Progress counts up to what was announced, one for each process.
    assert [done for done, _, _ in told] == list(range(len(answers.questions)))
    assert told[-1][1] == len(answers.questions)
    assert "Traceback" not in html(record)


@pytest.mark.parametrize("given", [None, 3])
def test_everything_is_measured_with_the_threads_that_the_record_has(
    folder: Path, given: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptwo.perf.measuring.usable_cores", lambda: 5)
    answers = Answers()
    record = bench(settings(folder, threads=given), ask=answers)
    expected = given or 5
    assert record["environment"]["threads"] == expected
    asked = [question for question in answers.questions if "requests" not in question]
    assert {request["threads"] for request in (*asked, *answers.requests())} == {expected}


def test_nothing_is_timed_before_everything_agrees_and_ceilings_stand_around_it(folder: Path) -> None:
    answers = Answers()
    bench(settings(folder), ask=answers)
    asked = [question["what"] for question in answers.questions]
    assert asked.index("agreement") < asked.index("init") < asked.index("several")
    assert asked.index("ceilings") < asked.index("agreement")
    assert asked[-1] == "ceilings"
    assert asked.count("ceilings") == 2


def test_what_is_red_is_not_timed(folder: Path) -> None:
    answers = Answers(red=("native int8 on cpu",))
    record = bench(settings(folder), ask=answers)
    assert answers.requests()
    assert {request["dtype"] for request in answers.requests()} == {"fp32"}
    (why,) = [entry["why"] for entry in record["left_out"] if entry["what"] == "native int8 on cpu"]
    assert "no finite number" in why
    assert "native int8 on cpu" not in {case["id"] for case in record["cases"]}


def test_contenders_take_turns_and_the_first_one_changes(folder: Path) -> None:
    answers = Answers()
    bench(settings(folder, quick=False), ask=answers)
    groups_asked = [
        (
            request["what"],
            request.get("tokens"),
            request.get("past"),
            request["batch"],
            request.get("with_text"),
        )
        for request in answers.requests()
    ]
    # A process for each case, contender and round; all rounds of a group side by side.
    assert all(len(question["requests"]) == 1 for question in answers.questions if "requests" in question)
    changes = sum(one != other for one, other in pairwise(groups_asked))
    assert changes + 1 == len(set(groups_asked))
    first_group = [
        (request["engine"], request["dtype"])
        for request, group in zip(answers.requests(), groups_asked, strict=True)
        if group == groups_asked[0]
    ]
    order = [("native", "fp32"), ("native", "int8"), ("torch", "fp32")]
    assert first_group == [*order, *reversed(order)] * 2


def test_a_case_that_fails_is_left_out_and_the_rest_stands(folder: Path) -> None:
    record = bench(settings(folder, quick=False), ask=Answers(fails=("train", "energy")))
    kinds = Counter(case["kind"] for case in record["cases"])
    assert kinds["train"] == 0
    assert kinds["forward"]
    assert kinds["decode"]
    why = {entry["what"]: entry["why"] for entry in record["left_out"]}
    assert why["train/cpu/torch/fp32/4x64"] == "too little memory"
    assert why["energy of torch fp32 on cpu"] == "no energy here"
    record = bench(settings(folder, quick=False), ask=Answers())
    assert record["energy"] == {"measured": False, "rows": [], "why": "no counters"}


def test_nothing_is_said_of_the_next_round_of_what_failed_or_was_stopped(folder: Path) -> None:
    record = bench(settings(folder), ask=Answers(fails=("forward",)))
    said = [entry["what"] for entry in record["left_out"] if entry["what"].startswith("round")]
    assert said == [f"round 1 of {one} on cpu" for one in ("native fp32", "native int8", "torch fp32")]
    answers = Answers()

    def ask(question: dict[str, Any]) -> Any:
        if question["what"] == "several":
            raise KeyboardInterrupt
        return answers(question)

    record = bench(settings(folder), ask=ask)
    assert [entry["what"] for entry in record["left_out"] if entry["what"].startswith("round")] == [
        "round 1 of native fp32 on cpu and all that comes after it"
    ]


def test_what_a_case_says_is_what_was_answered(folder: Path) -> None:
    record = bench(settings(folder), ask=Answers())
    case = next(case for case in record["cases"] if case["id"] == "prefill/cpu/native/fp32/1x64")
    samples = [second for taken in case["rounds"] for second in taken]
    assert len(case["rounds"]) == QUICK.rounds
    assert case["seconds"]["samples"] == samples
    assert case["seconds"] == summarise_rounds(case["rounds"]).to_json()
    assert case["tokens_per_s"] == pytest.approx(64 / case["seconds"]["median"])
    assert case["share"] == pytest.approx(case["floor_s"] / case["seconds"]["median"])
    train = next(case for case in record["cases"] if case["kind"] == "train")
    assert sum(train["split"].values()) == pytest.approx(train["seconds"]["median"])
    decode = next(case for case in record["cases"] if case["kind"] == "decode" and case["past"])
    assert decode["first_token_s"]["n"] == QUICK.rounds
    assert decode["seconds"]["p99"] is None


def test_a_gpu_that_is_not_here_is_predicted_and_marked(folder: Path) -> None:
    record = bench(settings(folder, gpu="a100"), ask=Answers())
    predicted = [case for case in record["cases"] if not case["measured"]]
    assert {case["device"] for case in predicted} == {"a100"}
    assert all(case["seconds"] is None and case["predicted_s"] > 0 for case in predicted)
    assert {case["kind"] for case in predicted} == {"forward", "prefill", "decode", "train"}
    assert record["crossing"]["gpu_measured"] is False
    assert "(predicted)" in html(record)
    assert {row["gpu_measured"] for row in record["paper"]} == {False}
    assert (
        "as predicted" in record["crossing"]["verdict"]
        or "CPU is done first" in record["crossing"]["verdict"]
    )
    with pytest.raises(DeviceError, match=r"'abacus'[^\n]*a100"):
        bench(settings(folder, gpu="abacus"), ask=Answers())


def test_memory_is_predicted_of_every_case_without_text(folder: Path) -> None:
    cases = bench(settings(folder, quick=False), ask=Answers())["cases"]
    for case in cases:
        assert (case["predicted_memory_bytes"] is None) is case["with_text"], case["id"]
    by_id = {case["id"]: case["predicted_memory_bytes"] for case in cases}
    # The logits of every token beside those of the last, of one and of four texts.
    logits = 4 * CONFIG.vocab_size
    for engine in ("native", "torch"):
        one, four = (by_id[f"forward/cpu/{engine}/fp32/{batch}x64"] for batch in (1, 4))
        prefill = by_id[f"prefill/cpu/{engine}/fp32/1x64"]
        kept = 0 if engine == "native" else 2 * CONFIG.n_layer * 64 * CONFIG.n_embd * 4
        assert one == prefill + 63 * logits - kept
        assert four - one >= 3 * 64 * logits


def test_memory_is_not_predicted_without_that_of_the_process(folder: Path) -> None:
    def ask(question: dict[str, Any]) -> Any:
        found = Answers()(question)
        return {**found, "process_bytes": {"native": 1}} if question["what"] == "ceilings" else found

    for case in bench(settings(folder), ask=ask)["cases"]:
        if not case["with_text"] and case["measured"]:
            assert case["predicted_s"] is not None
            assert (case["predicted_memory_bytes"] is not None) is (case["engine"] == "native"), case["id"]


def test_a_dtype_without_ceilings_is_not_predicted_by_anothers(folder: Path) -> None:
    record = bench(settings(folder, engines=("torch",), dtypes=("fp32", "fp64")), ask=Answers())
    found = [case for case in record["cases"] if case["measured"] and not case["with_text"]]
    assert {case["dtype"] for case in found} == {"fp32", "fp64"}
    for case in found:
        known = case["dtype"] == "fp32"
        assert (case["predicted_s"] is not None) is known
        assert (case["predicted_memory_bytes"] is not None) is known


def test_what_agrees_is_as_many_texts_as_are_timed(folder: Path) -> None:
    for quick, batch in ((True, 4), (False, 16)):
        answers = Answers()
        bench(settings(folder, quick=quick), ask=answers)
        (asked,) = [question for question in answers.questions if question["what"] == "agreement"]
        assert asked["batch"] == batch == max(request["batch"] for request in answers.requests())
        trained = [request for request in answers.requests() if request["what"] == "train"]
        assert trained
        assert all(asked["training"] == [request["batch"], request["tokens"]] for request in trained)


def test_starts_of_the_full_form_have_an_interval(folder: Path) -> None:
    starts = bench(settings(folder, quick=False), ask=Answers())["initialisation"]
    assert {entry["total"]["n"] for entry in starts} == {LEAST_FOR_INTERVAL}


def test_a_shape_is_predicted_once(folder: Path) -> None:
    found = bench(settings(folder, quick=False), ask=Answers())["cases"]
    predicted = [(case["kind"], case["batch"], case["past"]) for case in found if not case["measured"]]
    decoded = [shape for shape in predicted if shape[0] == "decode"]
    assert len(set(decoded)) == len(decoded) > 1


def test_what_is_compared_in_the_crossing_was_measured(folder: Path) -> None:
    for quick in (True, False):
        record = bench(settings(folder, quick=quick), ask=Answers())
        own = [case for case in record["cases"] if case["measured"] and case["engine"] == "native"]
        passes = [case["batch"] * case["tokens"] for case in own if case["kind"] == "forward"]
        found = record["crossing"]
        compared = [point["batch"] * point["tokens"] for point in found["by_length"] + found["by_batch"]]
        assert min(passes) <= min(compared)
        assert max(compared) <= max(passes)
        assert [point["tokens"] for point in found["by_length"]] == [16, 32, 64]
        prompts = {case["tokens"] for case in own if case["kind"] == "prefill"}
        assert min(PROMPT, CONFIG.context // 2) in prompts


def test_a_record_without_two_sides_has_no_crossing(folder: Path) -> None:
    record = bench(settings(folder, engines=("native",)), ask=Answers(fails=("forward",)))
    assert record["crossing"] is None
    assert record["paper"] == []
    assert "CPU or GPU?" not in html(record)


def test_a_drift_of_more_than_five_percent_is_said(folder: Path) -> None:
    for drift, ok in ((0.04, True), (0.06, False), (-0.2, False)):
        record = bench(settings(folder), ask=Answers(drift=drift))
        said = [reason for reason in record["quiet"]["reasons"] if f"read by {drift:+.0%}" in reason]
        assert bool(said) is not ok
        assert record["ceilings"][0]["drift"]["read"] == pytest.approx(drift)


def test_a_share_is_of_the_higher_ceiling(folder: Path) -> None:
    for drift, factor in ((-0.2, 1.0), (0.5, 1.5)):
        record = bench(settings(folder), ask=Answers(drift=drift))
        bandwidth = factor * CEILINGS.read_bytes_per_s
        assert record["ceilings"][0]["floors_from"]["read_bytes_per_s"] == pytest.approx(bandwidth)
        cases = [case for case in record["cases"] if case["measured"] and case["bound_by"] == "memory"]
        assert cases
        for case in cases:
            assert case["floor_s"] == pytest.approx(case["bytes"] / bandwidth)
            assert case["share"] == pytest.approx(case["floor_s"] / case["seconds"]["median"])


def test_mistakes_are_said_before_anything_is_measured(folder: Path, tmp_path: Path) -> None:
    answers = Answers()
    for changes, error, match in (
        ({"engines": ("abacus",)}, ConfigError, r"no engine 'abacus'[^\n]*native, torch"),
        ({"dtypes": ("int3",)}, ConfigError, r"no dtype 'int3'"),
        ({"devices": ("tpu",)}, DeviceError, r"'tpu'"),
        (
            {"engines": ("torch",), "dtypes": ("int8",)},
            ConfigError,
            r"nothing is left[^\n]*torch int8 on cpu",
        ),
        ({"model": str(tmp_path / "none")}, CheckpointError, r"none"),
    ):
        with pytest.raises(error, match=match):
            bench(settings(folder, **changes), ask=answers)
    assert answers.questions == []


def test_every_case_fits_the_context_and_has_a_name_of_its_own() -> None:
    found, _ = contenders(("cpu",), ("native", "torch"), ("fp32", "int8", "bf16"))
    for context in (1, 2, 33, 64, 1000, 1024):
        for quick in (True, False):
            cases = [
                case for group in groups(GPT2Config(context=context), found, quick=quick) for case in group
            ]
            assert len({case.id for case in cases}) == len(cases)
            for case in cases:
                assert case.tokens >= 1
                assert case.past >= 0
                assert case.past + case.tokens <= context


def of_gpt2(*, quick: bool) -> list[Case]:
    found, _ = contenders(("cpu",), ("native", "torch"), ())
    return [case for group in groups(GPT2Config(), found, quick=quick) for case in group]


def test_gpt2_is_written_at_depths_0_256_and_1000_often_enough_for_a_p99() -> None:
    for quick, effort in ((True, QUICK), (False, FULL)):
        alone = [
            case
            for case in of_gpt2(quick=quick)
            if (case.kind, case.batch, case.with_text, case.contender) == ("decode", 1, False, NATIVE)
        ]
        assert [case.past for case in alone] == [0, 256, 1000]
        often = [effort.rounds * effort.samples(case) >= LEAST_FOR_P99 for case in alone]
        assert often == [not quick] * 3
    # With torch on the CPU, which is not what writes there, it would take minutes.
    (later,) = [case for case in of_gpt2(quick=False) if case.id == "decode/cpu/torch/fp32/1x32+256"]
    assert FULL.samples(later) == 32


@pytest.mark.parametrize("at", ["init", "several", "energy", "ceilings"])
def test_a_run_that_is_stopped_keeps_what_it_has(folder: Path, at: str) -> None:
    answers, told = Answers(), []

    def ask(question: dict[str, Any]) -> Any:
        told.append(question["what"])
        if question["what"] == at and told.count(at) == 2:
            raise KeyboardInterrupt
        return answers(question)

    record = bench(settings(folder, quick=at != "energy"), ask=ask)
    assert was_stopped(record)
    assert (told[-1], told.count(at)) == (at, 2)  # nothing is asked after it
    assert [entry["why"] for entry in record["left_out"]].count(STOPPED) == 1
    assert "stopped" in record["quiet"]["reasons"][0]
    assert (record["ceilings"][0]["after"], record["ceilings"][0]["drift"]) == (None, None)
    timed = {case["id"] for case in record["cases"] if case["measured"]}
    assert bool(timed) is (at != "init")
    assert set(record) == set(KEYS)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert "stopped" in summary(record)
    assert "the run was stopped" in html(record)
    assert not was_stopped(bench(settings(folder), ask=Answers()))


def test_a_run_that_is_stopped_before_it_timed_anything_has_no_record(folder: Path) -> None:
    answers = Answers()

    def ask(question: dict[str, Any]) -> Any:
        if question["what"] == "agreement":
            raise KeyboardInterrupt
        return answers(question)

    with pytest.raises(KeyboardInterrupt):
        bench(settings(folder), ask=ask)


def test_passes_by_batch_and_by_length_and_one_of_the_whole_context() -> None:
    for quick in (True, False):
        shapes = {(case.batch, case.tokens) for case in of_gpt2(quick=quick) if case.kind == "forward"}
        assert {(1, 16), (1, 1024)} <= shapes
        lengths = {tokens for batch, tokens in shapes if batch > 1}
        batches = {batch for batch, tokens in shapes if tokens in lengths}
        grid = {(batch, tokens) for batch in batches for tokens in lengths if batch * tokens <= 2048}
        assert shapes == grid | {(1, 16), (1, 1024)}
        assert len(batches) > 1


def test_two_records_of_the_full_form_can_be_told_apart() -> None:
    assert FULL.rounds >= LEAST_PROCESSES
    assert FULL.starts >= LEAST_PROCESSES


@pytest.mark.parametrize(
    ("factor", "holds"), [(1.0, True), (1.08, True), (0.8, False), (2.0, False), (None, True)]
)
def test_a_plan_from_ceilings_that_have_moved_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, factor: float | None, holds: bool
) -> None:
    earlier = factor and replace(
        CEILINGS, read_bytes_per_s=factor * CEILINGS.read_bytes_per_s, measured_at="2020-01-01T00:00:00+00:00"
    )
    monkeypatch.setattr("gptwo.perf.bench.cached_ceilings", lambda *_, **__: earlier)
    record = bench(settings(folder), ask=Answers())
    found = record["ceilings"][0]["plan_from"]
    assert found["holds"] is holds
    assert found["measured_at"][:4] == ("2020" if factor else "2026")
    plain = [case for case in record["cases"] if case["measured"] and not case["with_text"]]
    assert plain
    assert all((case["predicted_s"] is not None) is holds for case in plain)
    assert ("no plan: " in summary(record)) is not holds
    assert ("2020-01-01" in html(record)) is bool(factor)


@pytest.mark.parametrize(
    ("round_s", "left_out"),
    [(10.0, []), (13.0, ["torch fp32"]), (16.0, ["native int8", "torch fp32"]), (40.0, ["all"])],
)
def test_a_quick_run_has_time_for_what_a_slow_machine_can_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, round_s: float, left_out: list[str]
) -> None:
    """Ceilings of five seconds before and after; a round of native fp32 takes ``round_s``, each other a second more."""
    answers, now = Answers(), [100.0]
    monkeypatch.setattr(
        "gptwo.perf.measuring.time", SimpleNamespace(perf_counter=lambda: now[0], time=time.time)
    )
    names = ["native fp32", "native int8", "torch fp32"]

    def ask(question: dict[str, Any]) -> Any:
        if question["what"] == "ceilings":
            now[0] += 5
        if question["what"] == "several":
            one = question["requests"][0]
            now[0] += round_s + names.index(f"{one.get('engine', 'torch')} {one['dtype']}")
        return answers(question)

    record = bench(settings(folder), ask=ask)
    expected = names if left_out == ["all"] else left_out
    said = [entry["what"] for entry in record["left_out"] if entry["what"].startswith("round")]
    assert sorted(said) == [f"round 2 of {name} on cpu" for name in expected]
    for case in record["cases"]:
        if case["measured"]:
            again = f"{case['engine']} {case['dtype']}" not in expected
            assert len(case["rounds"]) == 1 + again
    if left_out != ["all"]:  # its first round alone is too long
        assert now[0] - 100 <= QUICK_S


def test_a_quick_run_measures_the_products_of_what_it_times(folder: Path) -> None:
    for changes, dtypes in (
        ({}, ["fp32", "int8"]),
        ({"dtypes": ("fp32",)}, ["fp32"]),
        ({"dtypes": ("int4",)}, ["fp32", "int4", "int8"]),
        ({"quick": False}, None),
    ):
        answers = Answers()
        bench(settings(folder, **changes), ask=answers)
        asked = [question for question in answers.questions if question["what"] == "ceilings"]
        assert [question.get("dtypes") for question in asked] == [dtypes] * 2


def test_what_a_quick_run_leaves_out_is_said(folder: Path) -> None:
    record = bench(settings(folder), ask=Answers())
    assert [entry["what"] for entry in record["left_out"]] == ["prompts and writing with torch fp32 on cpu"]
    kinds = {case["kind"] for case in record["cases"] if case["engine"] == "torch" and case["measured"]}
    assert kinds == {"forward", "train"}
    assert bench(settings(folder, quick=False), ask=Answers())["left_out"] == []
    alone = bench(settings(folder, engines=("torch",)), ask=Answers())
    assert alone["left_out"] == []
    assert {case["kind"] for case in alone["cases"]} == {"forward", "prefill", "decode", "train"}


def test_a_start_counts_from_the_question_on(folder: Path) -> None:
    began = time.time()
    answers = Answers()
    bench(settings(folder), ask=answers)
    asked = [question["since"] for question in answers.questions if question["what"] == "init"]
    assert len(asked) == 3
    assert began <= min(asked) <= max(asked) <= time.time()


def test_a_gpu_that_is_here_stands_beside_the_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptwo.perf.bench._devices", lambda names: ["cpu", "cuda:0"])
    record = bench(settings(folder), ask=Answers())
    assert all(case["measured"] for case in record["cases"])
    assert {case["dtype"] for case in record["cases"] if case["device"] == "cuda:0"} == {"fp32", "bf16"}
    assert record["left_out"][0]["what"] == "native on cuda:0"
    crossed = record["crossing"]
    assert crossed["gpu_measured"] is True
    assert crossed["gpu"] == "A GPU, torch fp32"
    assert "predicted" not in crossed["verdict"]
    whole = record["paper"][1]
    assert (whole["torch_s"], whole["gpu_s"]) == (
        pytest.approx(0.01, rel=0.01),
        pytest.approx(0.0005, rel=0.01),
    )
    assert whole["gpu_measured"] is True
    moved = record["paper"][-1]
    assert moved["gpu_s"] == pytest.approx(1e-5 + 4 * parameter_count(CONFIG) / 1e10)
    shown = html(record)
    assert "(predicted)" not in shown
    assert "The roofline of cuda:0" in shown
    assert "Between host and device" in shown


def test_the_papers_table_has_pytorch_the_native_engine_and_the_gpu(folder: Path) -> None:
    start, whole, times, step, weights = bench(settings(folder), ask=Answers())["paper"]
    assert (whole["paper_cpu_s"], whole["paper_gpu_s"]) == (20.0, 0.03)
    assert whole["what"] == "forward pass, here 1×64 tokens (§7.2)"
    assert whole["torch_s"] == whole["cpu_s"] == pytest.approx(0.01, rel=0.01)
    assert times["paper_cpu"] == "667 ×"
    assert times["torch"] == f"{whole['torch_s'] / whole['gpu_s']:,.3g} ×"
    assert start["torch_s"] == pytest.approx(0.3)
    assert step["torch_s"] > 0
    assert step["gpu_s"] > 0
    assert step["cpu"] == "–"  # nothing but torch trains
    assert weights["gpu_s"] > 0
    assert weights["paper_gpu"] == "noticeable"


def test_what_writes_in_fewer_bits_has_a_crossing_of_its_own(folder: Path) -> None:
    crossed = bench(settings(folder), ask=Answers())["crossing"]
    assert crossed["also"]["cpu"] == "A processor, native int8"
    pairs = zip(crossed["by_tokens"], crossed["also"]["by_tokens"], strict=True)
    assert all(also["cpu_s"] < own["cpu_s"] for own, also in pairs)
    assert "With native int8 on the CPU" in crossed["verdict"]
    fp32 = bench(settings(folder, dtypes=("fp32",)), ask=Answers())
    assert fp32["crossing"]["also"] is None


def test_the_summary_is_what_a_person_wants_to_know(folder: Path) -> None:
    record = bench(settings(folder, threads=2), ask=Answers(drift=-0.2))
    text = summary(record)
    for part in (
        "on A processor, 2 threads",
        "native int8 on cpu",
        "2×24",
        "n: processes × samples of each",
        "after 40, text",
        "1×64",
        "the paper's §7",
        "NVIDIA T4 16 GB, predicted",
        "CPU or GPU: ",
        "ceilings of cpu: fp32 products 100 GFLOP/s",
        "agreement: 3 of 3",
        "energy: not measured: --quick has no time for it",
        "not timed: prompts and writing with torch fp32 on cpu",
        "not quiet: ceilings of cpu moved during the run: read by -20%",
    ):
        assert part in text, part
    assert max(map(len, text.splitlines()[1:])) <= 135


def keys(table: str) -> set[str]:
    """What the first column of a table of the schema names, but for what lies deeper."""
    names = [
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in row.split("|")[1].split("`")[1::2]
    ]
    return {re.split(r"[.\[]", name)[0] for name in names}


def test_the_schema_is_the_records(folder: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "bench-schema.md").read_text(encoding="utf-8")
    of_record, rest = page.split("## A case")
    of_case, rest = rest.split("## `crossing`")
    of_crossing, of_compare = rest.split("## `gptwo bench compare --json`")
    record = bench(settings(folder), ask=Answers())
    assert keys(of_record) == set(record)
    assert keys(of_crossing) == set(record["crossing"])
    for case in record["cases"]:
        assert keys(of_case) == set(case)
    assert keys(of_compare) == set(compare(record, record).to_json())
    # What is deeper is named, too.
    deeper: list[dict[str, Any]] = [
        *(record[name] for name in ("model", "quiet", "energy")),
        *(
            record[name][0]
            for name in ("devices", "ceilings", "agreement", "left_out", "initialisation", "paper")
        ),
        *(record["crossing"][name][0] for name in ("by_batch", "by_tokens")),
        record["crossing"]["also"],
        record["cases"][0]["seconds"],
    ]
    for value in deeper:
        for name in value:
            assert re.search(rf"\b{name}\b", page) or name.endswith("_s"), name


def test_the_floor_is_what_the_formulas_say() -> None:
    case = Case(kind="forward", contender=NATIVE, batch=4, tokens=32)
    found = floor(CONFIG, case, CEILINGS)
    assert found.flops == forward_flops(CONFIG, batch=4, tokens=32)
    arithmetic, memory = found.flops / 1e11, found.bytes / 2e10
    assert found.seconds == max(arithmetic, memory)
    token = floor(CONFIG, Case(kind="decode", contender=NATIVE, batch=1, tokens=8, past=16), CEILINGS)
    assert token.flops == forward_flops(CONFIG, batch=1, tokens=1, past=20)
    assert token.bound_by == "memory"
    # 16 more tokens in the cache are 16 more keys and values that are read.
    later = floor(CONFIG, Case(kind="decode", contender=NATIVE, batch=1, tokens=8, past=32), CEILINGS)
    assert later.bytes - token.bytes == 16 * 2 * CONFIG.n_layer * CONFIG.n_embd * 4
    step = floor(CONFIG, Case(kind="train", contender=TORCH, batch=2, tokens=64), CEILINGS)
    assert step.flops == training_flops(CONFIG, batch=2, tokens=64)


def test_the_workers_answer_every_question_that_is_asked(folder: Path) -> None:
    """The whole of a quick run on a tiny model, in this process, with the ceilings alone made up."""

    def ask(question: dict[str, Any]) -> Any:
        return CEILINGS.to_json() if question["what"] == "ceilings" else answer(**question)

    record = bench(settings(folder, dtypes=("fp32",)), ask=ask)
    assert [entry["what"] for entry in record["left_out"]] == ["prompts and writing with torch fp32 on cpu"]
    assert all(row["ok"] for row in record["agreement"])
    measured = {case["id"] for case in record["cases"] if case["measured"]}
    assert "train/cpu/torch/fp32/1x64" in measured
    assert "decode/cpu/native/fp32/1x24+40/text" in measured
    assert all(case["seconds"]["median"] > 0 for case in record["cases"] if case["measured"])
