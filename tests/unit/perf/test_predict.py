"""Predictions from ceilings that are made up, so that what they say can be reckoned by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from gptwo.config import PRESETS, GPT2Config
from gptwo.costs import forward_flops, packed_bytes, serving_memory, training_flops, training_memory
from gptwo.perf.ceilings import Ceilings
from gptwo.perf.machines import machine
from gptwo.perf.predict import predict_forward, predict_training_step

GPT2 = PRESETS["gpt2"]
PRODUCTS = ("attention.qkv", "attention.output", "mlp.up", "mlp.down", "head")
DATASHEET = Ceilings(
    device="cuda",
    name="a GPU of nowhere",
    threads=1,
    matmul_flops_per_s={"fp32": 1e13, "bf16": 1e14},
    model_matmul_flops_per_s={name: {"fp32": 5e12, "bf16": 5e13} for name in PRODUCTS},
    read_bytes_per_s=1e12,
    copy_bytes_per_s=8e11,
    dispatch_s=5e-6,
    launch_s=4e-6,
    transfers=None,
    measured_at="",
    source="datasheet",
)
CPU = replace(
    DATASHEET,
    device="cpu",
    matmul_flops_per_s={"fp32": 1e11},
    read_bytes_per_s=1e10,
    copy_bytes_per_s=1e10,
    process_bytes={"native": 40, "torch": 300, "train": 350},
)


def table(speed: float) -> list[list[float]]:
    return [[speed, 2 * speed], [3 * speed, 4 * speed]]


def native_size(width: int, weight_bytes: int, seconds: float) -> dict[str, Any]:
    return {
        "width": width,
        "bytes": weight_bytes,
        "rows": [1, 256],
        "s_per_byte": [seconds, 10 * seconds],
        "head_s_per_byte": seconds / 2,
        "prefill_s_per_value": 1e-12,
        "decode_s_per_byte": 2e-10,
    }


MEASURED = replace(
    CPU,
    speeds={
        "torch": {
            "products": {
                "rows": [64, 1024],
                "widths": [192, 768],
                "forward": table(1e10),
                "input_gradient": table(1e10),
                "weight_gradient": table(1e10),
                "few_rows": [1, 8],
                "forward_few": [1e8, 4e8],
            },
            "head": {"vocabularies": [1000, 50257], "widths": [192, 768], "flops_per_s": table(1e10)},
            "attention": {
                "head_widths": [32, 64],
                "tokens": [64, 512],
                "forward": table(1e-9),
                "backward": table(2e-9),
            },
            "per_value": dict.fromkeys(
                ("norm", "norm_backward", "gelu", "gelu_backward", "add", "adamw"), 1e-9
            ),
            "layer_s": 1e-3,
            "step_s": 2e-3,
        },
        "native": {
            "call_s": 1e-5,
            "layer_s": 1e-6,
            "formats": {
                dtype: [native_size(128, 10**6, 1e-11), native_size(768, 10**8, 1e-10)]
                for dtype in ("fp32", "bf16", "int8", "int4")
            },
        },
    },
)


def test_a_token_is_its_bytes_at_the_speed_of_reading() -> None:
    """Without measured parts: what the blocks, the head and the cache hold, over the bandwidth, and the barriers."""
    found = predict_forward(GPT2, CPU, kind="decode", past=100)
    weights = packed_bytes(GPT2, "fp32") - 4 * (1024 * 768 + 12 * (9 * 768 + 4 * 768) + 2 * 768)
    assert found.parts["products"] + found.parts["head"] == pytest.approx(weights / 1e10)
    assert found.parts["attention"] == pytest.approx(2 * 12 * 101 * 768 * 4 / 1e10)
    assert found.parts["overhead"] == pytest.approx(12 * 7 * 4e-6)
    assert found.seconds == pytest.approx(sum(found.parts.values()))
    assert found.bound_by == "memory"
    assert 0.9 < found.floor_seconds / found.seconds < 1.0


def test_measured_parts_are_taken_where_they_lie() -> None:
    """GPT-2's blocks are larger than the large model of the table: its own speed; at 256 rows ten times that."""
    one = predict_forward(GPT2, MEASURED, kind="decode")
    many = predict_forward(GPT2, MEASURED, kind="prefill", tokens=512)
    blocks = 12 * 4 * 12 * 768 * 768
    assert one.parts["products"] == pytest.approx(1e-10 * blocks)
    # 512 rows go through by 256. In the last layer they are done with their keys and values, all but the last one.
    assert many.parts["products"] == pytest.approx(
        2 * 1e-9 * blocks * (11 + 3 / 12) / 12 + 1e-10 * blocks * (9 / 12) / 12
    )
    assert many.parts["head"] == pytest.approx(0.5e-10 * 4 * 50272 * 768), "of the last token alone"
    rows = predict_forward(GPT2, MEASURED, kind="decode", batch=256)
    assert rows.parts["head"] == pytest.approx(9.5e-10 * 4 * 50272 * 768), "a row more as in the blocks"
    assert many.parts["attention"] == pytest.approx(1e-12 * 768 * (11 * 512 * 513 / 2 + 512))
    assert one.parts["overhead"] == pytest.approx(1e-5 + 12e-6)
    # Of a model between the two, half way by the logarithm.
    between = replace(GPT2, n_layer=1, n_head=2, n_embd=456, n_inner=1824, vocab_size=32)
    small = predict_forward(between, MEASURED, kind="decode").parts["products"] / (4 * 12 * 456 * 456)
    assert 1e-11 < small < 1e-10


def test_a_token_of_torch_takes_what_few_rows_take() -> None:
    """One row at the speed of one row, eight at that of eight; not at that of the 64 of training."""
    weights = 12 * 12 * 768 * 768
    for batch, speed in ((1, 1e8), (8, 4e8)):
        token = predict_forward(GPT2, MEASURED, kind="decode", engine="torch", batch=batch)
        assert token.parts["products"] == pytest.approx(2 * batch * weights / speed)
        assert token.parts["head"] == pytest.approx(2 * batch * 50257 * 768 / speed)
    reading = predict_forward(GPT2, MEASURED, kind="prefill", engine="torch", tokens=64)
    assert reading.parts["products"] == pytest.approx(2 * 64 * weights / 2e10)


def test_many_rows_are_as_fast_as_the_width_lets_them() -> None:
    """A shallow model that caches keep, and a deep one: alike, when it is arithmetic that takes the time."""
    deep = replace(GPT2, n_layer=40, n_head=5, n_embd=320, n_inner=1280, vocab_size=32)
    shallow = replace(deep, n_layer=2)
    rows = [predict_forward(one, MEASURED, kind="decode", batch=256) for one in (deep, shallow)]
    each = [one.parts["products"] / config.n_layer for one, config in zip(rows, (deep, shallow), strict=True)]
    assert each[0] == pytest.approx(each[1])
    bytes_per_s = 1e10 - 9e9 * math.log(320 / 128) / math.log(768 / 128)
    assert each[0] == pytest.approx(4 * 12 * 320 * 320 / bytes_per_s)
    few = [
        predict_forward(one, MEASURED, kind="decode", batch=1).parts["products"] for one in (deep, shallow)
    ]
    assert few[0] > 1.5 * 20 * few[1]


def test_int8_is_quicker_and_smaller() -> None:
    fp32, int8 = (predict_forward(GPT2, CPU, kind="decode", dtype=dtype) for dtype in ("fp32", "int8"))
    assert int8.seconds < fp32.seconds / 3
    assert int8.memory == {
        "process": 40,
        **serving_memory(GPT2, slots=1, tokens=1, rows=1, weights="int8", kv="int8"),
    }
    assert int8.peak_memory_bytes == sum(int8.memory.values())


def test_a_prefill_is_bound_by_arithmetic() -> None:
    found = predict_forward(
        GPT2, DATASHEET, kind="prefill", tokens=1024, batch=8, engine="torch", dtype="bf16"
    )
    assert found.bound_by == "arithmetic"
    flops = forward_flops(GPT2, batch=8, tokens=1024, last_only=True)
    assert flops / 1e14 <= found.floor_seconds < found.seconds


def test_a_token_on_a_gpu_waits_for_launches() -> None:
    found = predict_forward(GPT2, DATASHEET, kind="decode", engine="torch", dtype="bf16")
    assert found.bound_by == "overhead"
    assert found.memory["process"] == 0


def test_a_step_by_hand() -> None:
    found = predict_training_step(replace(GPT2, dropout=0.0), MEASURED, sequences=2, tokens=512)
    N, L, D, F, V = 1024, 12, 768, 3072, 50257
    assert found.parts["products"] == pytest.approx(3 * 2 * N * L * 12 * D * D / 4e10)
    # Heads of 64, texts of 512: the last of both; forward and backward.
    assert found.parts["attention"] == pytest.approx((4e-9 + 8e-9) * 12 * L * 2 * (512 * 513 // 2))
    # Four times a residual, and a third of an addition for each value that a bias's gradient sums up.
    assert found.parts["element-wise"] == pytest.approx(
        1e-9 * N * ((2 * L + 1) * D * 3 + L * F * 2 + L * (4 * D + (3 * D + D + F + D) / 3))
    )
    assert found.parts["optimizer"] == pytest.approx(1e-9 * 124_439_808)
    assert found.parts["overhead"] == pytest.approx(12e-3 + 2e-3)
    assert found.parts["head"] == pytest.approx(3 * 2 * N * V * D / 4e10)
    assert found.memory == {
        "process": 350,
        **training_memory(replace(GPT2, dropout=0.0), micro_batch=2, tokens=512),
    }
    assert found.floor_seconds == pytest.approx(training_flops(GPT2, batch=2, tokens=512) / 1e11)
    assert found.bound_by == "arithmetic"


def test_between_the_points_of_the_tables() -> None:
    """Half way by the logarithm of a width or a length; half way between two widths of heads."""
    step = predict_training_step(
        GPT2Config(n_layer=1, n_head=8, n_embd=384, context=512, vocab_size=1000, dropout=0.0),
        MEASURED,
        sequences=1,
    )
    assert step.parts["head"] == pytest.approx(6 * 512 * 1000 * 384 / 1.5e10)
    # Heads of 48 at 512 tokens: between 2 and 4 ns.
    assert step.parts["attention"] == pytest.approx((3e-9 + 6e-9) * 8 * (512 * 513 // 2))


def test_what_makes_a_step_longer() -> None:
    base: dict[str, Any] = {"sequences": 4, "tokens": 128}
    plain = predict_training_step(GPT2, MEASURED, **base)
    for more in ({"micro_batch": 1}, {"checkpoint_activations": True}, {"optimizer": "muon"}):
        assert predict_training_step(GPT2, MEASURED, **base, **more).seconds > plain.seconds
    assert predict_training_step(replace(GPT2, dropout=0.0), MEASURED, **base).seconds < plain.seconds
    less = predict_training_step(GPT2, MEASURED, **base, micro_batch=1)
    assert less.memory["activations"] < plain.memory["activations"]


def test_fp16_has_its_own_speed() -> None:
    """A T4 has tensor cores for fp16 and none for bf16."""
    t4 = machine("t4").ceilings(training=False)
    fp32, fp16 = (
        predict_forward(GPT2, t4, kind="prefill", tokens=1024, batch=8, engine="torch", dtype=dtype)
        for dtype in ("fp32", "fp16")
    )
    assert fp32.parts["products"] / fp16.parts["products"] == pytest.approx(65 / 8.1)
    assert fp16.memory["weights"] < fp32.memory["weights"] / 1.9


def test_bf16_on_a_gpu_is_quicker() -> None:
    fp32, bf16 = (
        predict_training_step(GPT2, DATASHEET, sequences=8, dtype=dtype) for dtype in ("fp32", "bf16")
    )
    assert bf16.parts["products"] == pytest.approx(fp32.parts["products"] / 10)
    assert "holes" in bf16.memory
    assert bf16.memory["holes"] == 0
