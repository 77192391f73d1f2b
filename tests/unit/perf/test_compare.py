"""Two records: what is slower for certain, what may be chance, and what cannot be compared."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_answers import CEILINGS

from command import command
from gptwo.base.errors import ConfigError, DataError
from gptwo.perf.compare import compare
from gptwo.perf.record import KEYS, SCHEMA, read_record, write_json
from gptwo.perf.statistics import summarise, summarise_rounds

FAST, SLOW, NEAR = [1.0, 1.1, 1.2, 1.3, 1.4], [2.0, 2.1, 2.2, 2.3, 2.4], [1.1, 1.2, 1.3, 1.4, 1.5]


def record(**samples: list[float]) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(KEYS)
    found |= {
        "schema": SCHEMA,
        "model": {"name": "gpt2", "config": {"n_layer": 12}, "weights": "random, seed 0"},
        "environment": {"processor": "A", "cores": 2, "threads": 2, "torch": "2.13"},
        "quiet": {"ok": True, "reasons": []},
        "ceilings": [{"device": "cpu", "before": CEILINGS.to_json(), "after": CEILINGS.to_json()}],
        "initialisation": [],
        "cases": [
            {
                "id": name,
                "measured": True,
                "seconds": summarise(taken).to_json(),
                "rounds": [[sample] for sample in taken],
            }
            for name, taken in samples.items()
        ],
    }
    found["cases"].append({"id": "of a GPU that is not here", "measured": False, "seconds": None})
    return found


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (FAST, SLOW, "slower"),
        (SLOW, FAST, "faster"),
        (FAST, NEAR, "no difference"),
        (FAST, FAST, "no difference"),
        (
            FAST[:3],
            SLOW[:3],
            "too few processes",
        ),  # of three each, one in ten pairs of equals looks like this
        (FAST[:4], SLOW[:4], "slower"),
    ],
)
def test_only_intervals_that_are_apart_are_a_difference(
    before: list[float], after: list[float], verdict: str
) -> None:
    found = compare(record(decode=before, train=FAST), record(decode=after, train=FAST))
    assert [row.verdict for row in found.rows] == [verdict, "no difference"]
    assert [row.id for row in found.slower] == (["decode"] if verdict == "slower" else [])
    assert found.rows[0].ratio == pytest.approx(found.rows[0].after_s / found.rows[0].before_s)


def test_other_models_and_other_cases_are_refused() -> None:
    first = record(decode=FAST)
    for key, value in (("name", "gpt2-xl"), ("config", {"n_layer": 48}), ("weights", "the model's own")):
        second = copy.deepcopy(first)
        second["model"][key] = value
        with pytest.raises(ConfigError, match=rf"^[^\n]*different models: {key}"):
            compare(first, second)
    with pytest.raises(ConfigError, match=r"^[^\n]*different cases: train is in the second alone"):
        compare(first, record(decode=FAST, train=FAST))
    with pytest.raises(ConfigError, match="no measured case"):
        compare(record(), record())


def test_what_cannot_be_told_is_counted_and_starts_are_compared() -> None:
    first, second = record(forward=FAST[:2]), record(forward=SLOW[:2])
    for found, taken in ((first, FAST), (second, SLOW)):
        place = {"device": "cpu", "engine": "torch", "dtype": "fp32"}
        found["initialisation"] = [{**place, "total": summarise(taken).to_json()}]
    compared = compare(first, second)
    assert {row.id: row.verdict for row in compared.rows} == {
        "forward": "too few processes", "start/cpu/torch/fp32": "slower"
    }  # fmt: skip
    assert compared.to_json()["undecided"] == 1
    verdict, why = compared.text().splitlines()[-2:]
    assert verdict.endswith("; of 1 there are too few processes to tell")
    assert why.startswith("it takes 4 processes in each record, which gptwo bench has without --quick")


def test_samples_of_one_process_are_no_difference_however_many() -> None:
    first, second = record(decode=FAST), record(decode=FAST)
    rounds = {1: [[1.0 + 0.001 * i for i in range(24)]], 4: [[2.0 + 0.001 * i for i in range(24)]] * 4}
    for found, processes in ((first, 1), (second, 4)):
        found["cases"][0] |= {
            "seconds": summarise_rounds(rounds[processes]).to_json(),
            "rounds": rounds[processes],
        }
    for pair in ((first, second), (second, first)):
        assert [row.verdict for row in compare(*pair).rows] == ["too few processes"]


def test_ceilings_that_differ_are_said() -> None:
    first, second = record(decode=FAST), record(decode=FAST)
    slower = replace(CEILINGS, read_bytes_per_s=0.6 * CEILINGS.read_bytes_per_s)
    second["ceilings"][0]["before"] = slower.to_json()
    # Once it was as fast: what was slow is not the machine.
    assert compare(first, second).notes == ()
    second["ceilings"][0]["after"] = slower.to_json()
    assert compare(first, second).notes == ("the ceilings of cpu differ: read by -40%",)


def test_other_machines_and_noise_are_said() -> None:
    first, second = record(decode=FAST), record(decode=FAST)
    assert compare(first, second).notes == ()
    second["environment"]["processor"] = "B"
    second["quiet"]["reasons"] = ["others were at work"]
    first["environment"]["gpus"] = {"cuda:0": {"name": "A GPU", "temperature_c": 40.0}}
    second["environment"]["gpus"] = {"cuda:0": {"name": "A GPU", "temperature_c": 50.0}}
    notes = compare(first, second).notes
    assert not any("gpus" in note for note in notes)
    second["environment"]["gpus"] |= {"cuda:1": {"name": "Another"}}
    assert compare(first, second).notes[1] == (
        "the machines differ: gpus are cuda:0 A GPU and cuda:0 A GPU, cuda:1 Another"
    )
    assert any("processor is A and B" in note for note in notes)
    # Before there were several.
    first["environment"] = {**second["environment"], "gpu": {"name": "A GPU"}}
    del first["environment"]["gpus"]
    second["environment"]["gpus"] = {"cuda:0": {"name": "A GPU"}}
    assert not any("gpus" in note for note in compare(first, second).notes)
    second["environment"]["gpus"] = {}
    assert "the machines differ: gpus are cuda:0 A GPU and none" in compare(first, second).notes
    assert any("second" in note and "others were at work" in note for note in notes)


def test_the_command_fails_only_when_slower(tmp_path: Path) -> None:
    fast, slow, other = (tmp_path / f"{name}.json" for name in ("fast", "slow", "other"))
    write_json(record(decode=FAST), fast)
    write_json(record(decode=SLOW), slow)
    write_json(record(decode=FAST) | {"schema": "gptwo-bench/0"}, other)
    done = command("bench", "compare", fast, slow)
    assert done.code == 1
    assert "1 of 1 slower" in done.out
    assert command("bench", "compare", slow, fast).code == 0
    done = command("bench", "compare", fast, slow, "--json", "-")
    assert done.code == 1
    assert json.loads(done.out)["slower"] == 1
    for arguments in (
        ("compare", fast),
        ("compare", fast, other),
        ("compare", fast, tmp_path / "none.json"),
        ("gpt2", "gpt2-xl"),
        ("gpt2", "--engine", "abacus"),
        ("gpt2", "--device", "cuda:99"),
        ("gpt2", "--gpu", "abacus"),
        (tmp_path / "none",),
    ):
        done = command("bench", *arguments)
        assert done.code == 2, arguments
        assert done.err.count("\n") == 1, done.err


def test_a_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(record(decode=FAST), path)
    assert read_record(path)["schema"] == SCHEMA
    for text, match in (
        ("{", "is no JSON"),
        ("[1]", "schema None"),
        ('{"schema": "gptwo-bench/9"}', "'gptwo-bench/9'; expected 'gptwo-bench/1'"),
        (json.dumps({"schema": SCHEMA}), "has no 'created'"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=match):
            read_record(path)
    with pytest.raises(DataError, match="cannot read"):
        read_record(tmp_path / "none")
