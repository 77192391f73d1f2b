"""``gptwo bench`` but for the clock: which questions are asked, in which order, and what the record says of them."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from bench_answers import CEILINGS, Answers

from gptwo.base.errors import CheckpointError, ConfigError, DeviceError
from gptwo.config import GPT2Config
from gptwo.costs import forward_flops, parameter_count, training_flops
from gptwo.perf.bench import bench
from gptwo.perf.figures import floor
from gptwo.perf.measuring import Settings
from gptwo.perf.record import KEYS
from gptwo.perf.report import html
from gptwo.perf.worker import answer
from gptwo.perf.workload import QUICK, Case, Contender, contenders, groups
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
    assert record["energy"] == {"measured": False, "rows": [], "why": "no counters"}
    (native, *_) = record["initialisation"]
    assert [step["name"] for step in native["steps"]] == ["import", "first token"]
    assert [(step["summary"], step["note"]) for step in native["beside"]] == [
        (None, "no way to empty the cache")
    ]
    assert native["total"]["n"] == QUICK.starts
    # Progress counts up to what was announced, one for each process.
    assert [done for done, _, _ in told] == list(range(len(answers.questions)))
    assert told[-1][1] == len(answers.questions)
    assert "Traceback" not in html(record)


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
    (left_out,) = record["left_out"]
    assert left_out["what"] == "native int8 on cpu"
    assert "no finite number" in left_out["why"]
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
    assert first_group == [*order, *reversed(order), *order]


def test_a_case_that_fails_is_left_out_and_the_rest_stands(folder: Path) -> None:
    record = bench(settings(folder, quick=False), ask=Answers(fails=("train", "energy")))
    kinds = Counter(case["kind"] for case in record["cases"])
    assert kinds["train"] == 0
    assert kinds["forward"]
    assert kinds["decode"]
    why = {entry["what"]: entry["why"] for entry in record["left_out"]}
    assert why["train/cpu/torch/fp32/4x64"] == "too little memory"
    assert why["energy of torch fp32 on cpu"] == "no energy here"


def test_what_a_case_says_is_what_was_answered(folder: Path) -> None:
    record = bench(settings(folder), ask=Answers())
    case = next(case for case in record["cases"] if case["id"] == "forward/cpu/native/fp32/4x64")
    samples = [second for taken in case["rounds"] for second in taken]
    assert len(case["rounds"]) == QUICK.rounds
    assert case["seconds"]["samples"] == samples
    assert case["tokens_per_s"] == pytest.approx(4 * 64 / case["seconds"]["median"])
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


def test_a_record_without_two_sides_has_no_crossing(folder: Path) -> None:
    record = bench(settings(folder, engines=("native",)), ask=Answers(fails=("forward",)))
    assert record["crossing"] is None
    assert record["paper"] == []
    assert "CPU or GPU?" not in html(record)


def test_a_drift_of_more_than_five_percent_is_said(folder: Path) -> None:
    for drift, ok in ((0.04, True), (0.06, False), (-0.2, False)):
        record = bench(settings(folder), ask=Answers(drift=drift))
        said = [reason for reason in record["quiet"]["reasons"] if "'read'" in reason]
        assert bool(said) is not ok
        assert record["ceilings"][0]["drift"]["read"] == pytest.approx(drift)


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
    assert record["left_out"] == []
    assert all(row["ok"] for row in record["agreement"])
    measured = {case["id"] for case in record["cases"] if case["measured"]}
    assert "train/cpu/torch/fp32/1x64" in measured
    assert "decode/cpu/native/fp32/1x24+40/text" in measured
    assert all(case["seconds"]["median"] > 0 for case in record["cases"] if case["measured"])
