"""Where CPU and GPU cross: by hand-worked sides."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench_answers import CEILINGS

from gptwo.config import GPT2Config
from gptwo.costs import weight_bytes
from gptwo.perf.crossing import BATCHES, Side, crossing
from gptwo.perf.machines import machine
from gptwo.perf.sides import PAPER_START_S, measured_side, predicted_side, representative
from gptwo.perf.statistics import summarise
from gptwo.perf.workload import Contender


def side(start_s: float, token_s: float, pass_s: float = 0.0, *, measured: bool = True) -> Side:
    """``pass_s`` is of any pass, beside ``token_s`` for each of its tokens."""
    return Side(
        device="x", label="x", measured=measured, start_s=start_s, basis=(),
        forward=lambda batch, tokens: pass_s + token_s * batch * tokens,
        prefill=lambda tokens: token_s, token=lambda past: token_s,
    )  # fmt: skip


def test_the_crossing_in_tokens_is_where_the_later_start_is_paid_back() -> None:
    # 1 + 0.010 n against 5 + 0.002 n: equal at 500.
    found = crossing(side(1.0, 0.010), side(5.0, 0.002), context=1024)
    assert found["points"]["tokens"] in (500, 501)
    assert found["by_tokens"][0] == {
        "tokens": 1,
        "cpu_s": pytest.approx(1.010),
        "gpu_s": pytest.approx(5.002),
    }
    assert f"Below {found['points']['tokens']:,} tokens" in found["verdict"]


def test_a_gpu_that_is_never_first_has_no_crossing() -> None:
    found = crossing(side(1.0, 0.001), side(2.0, 0.002), context=1024)
    assert found["points"] == {"batch": None, "length": None, "tokens": None}
    assert all(point["passes"] is None for point in found["by_batch"])
    assert "the CPU is done first" in found["verdict"]


def test_a_gpu_that_starts_sooner_is_first_at_once() -> None:
    found = crossing(side(2.0, 0.002), side(1.0, 0.001, measured=False), context=1024)
    assert found["points"] == {"batch": BATCHES[0], "length": 16, "tokens": 1}
    assert all(point["passes"] == 1 for point in found["by_length"])
    assert "as predicted" in found["verdict"]


def test_the_crossing_by_batch_is_where_every_larger_one_is_faster() -> None:
    # 0.001 B T against 0.3 + 0.0001 B T at T = 128: 0.115 B > 0.3 from B = 4 on.
    found = crossing(side(0.0, 0.001), side(10.0, 0.0001, 0.3), context=1024)
    assert found["points"]["batch"] == 4
    assert found["points"]["length"] == 512
    point = next(point for point in found["by_batch"] if point["batch"] == 8)
    gain = point["cpu_s"] - point["gpu_s"]
    assert (point["passes"] - 1) * gain <= 10.0 < point["passes"] * gain


def test_a_short_context_has_short_texts() -> None:
    found = crossing(side(0.0, 0.001), side(1.0, 0.0001), context=20)
    assert found["text_tokens"] == 10
    assert [point["tokens"] for point in found["by_length"]] == [16, 20]
    tiny = crossing(side(0.0, 0.001), side(1.0, 0.0001), context=8)
    assert [point["tokens"] for point in tiny["by_length"]] == [8]


def test_no_pass_is_compared_that_lies_beyond_those_measured() -> None:
    cpu = replace(side(0.0, 0.001), pass_tokens=(64, 512))
    found = crossing(cpu, side(1.0, 0.0001), context=1024)
    assert [point["tokens"] for point in found["by_length"]] == [64, 128, 256, 512]
    assert [point["batch"] for point in found["by_batch"]] == [1, 2, 4]
    nothing = crossing(replace(cpu, pass_tokens=(2048, 2048)), side(1.0, 0.0001), context=1024)
    assert (nothing["by_length"], nothing["points"]["length"]) == ([], None)
    assert "In one pass" not in nothing["verdict"]


def row(
    kind: str, seconds: float, *, engine: str = "native", dtype: str = "fp32", **shape: int
) -> dict[str, object]:
    place = {"device": "cpu", "engine": engine, "dtype": dtype, "measured": True, "with_text": False}
    return {
        "kind": kind,
        **place,
        "batch": 1,
        "tokens": 1,
        "past": 0,
        **shape,
        "seconds": summarise([seconds]).to_json(),
    }


ROWS = [
    row("forward", 0.1, tokens=64), row("forward", 0.4, tokens=64, batch=4),
    row("prefill", 0.08, tokens=64), row("decode", 0.010), row("decode", 0.020, past=100),
]  # fmt: skip
STARTS = [
    {
        **{"device": "cpu", "engine": "native", "dtype": "fp32", "total": summarise([0.7]).to_json()},
        "steps": [
            {"name": name, "summary": summarise([taken]).to_json()}
            for name, taken in (("import", 0.1), ("load", 0.4), ("first token", 0.2))
        ],
    }
]


def test_a_measured_side_is_its_medians_and_lines_between_them() -> None:
    one = representative(
        [*ROWS, row("decode", 0.001, dtype="int8"), row("decode", 0.005, engine="torch")], "cpu"
    )
    # The fastest in fp32 that was timed in everything.
    assert one == Contender("cpu", "native", "fp32")
    assert representative(ROWS[:-2], "cpu") is None
    found = measured_side(one, ROWS, STARTS, "A processor")
    assert found.start_s == 0.5  # the first token is counted where it is written
    assert found.forward(1, 64) == pytest.approx(0.1)
    assert found.forward(2, 64) == pytest.approx(0.2)
    assert found.pass_tokens == (64, 256)
    assert [found.knows(*shape) for shape in ((1, 63), (1, 64), (4, 64), (8, 64))] == [
        False,
        True,
        True,
        False,
    ]
    assert [found.token(past) for past in (0, 50, 100, 900)] == pytest.approx([0.010, 0.015, 0.020, 0.020])


def test_a_predicted_side_pays_for_its_start_and_its_copies() -> None:
    config = GPT2Config()
    cpu = measured_side(Contender("cpu", "native", "fp32"), ROWS, STARTS, CEILINGS.name)
    slow, fast = (predicted_side(config, machine(name), STARTS, cpu) for name in ("t4", "h100"))
    assert not slow.measured
    assert slow.copy_s == pytest.approx(weight_bytes(config) / (15.75e9 * 0.8))
    assert slow.start_s == pytest.approx(0.5 + PAPER_START_S + slow.copy_s)
    assert fast.forward(1, 1024) < slow.forward(1, 1024)
    assert slow.token(1000) > slow.token(0)
    assert slow.prefill(512) < slow.forward(1, 512)  # whose logits are all wanted
    assert any("a prediction, not measured" in line for line in slow.basis)
