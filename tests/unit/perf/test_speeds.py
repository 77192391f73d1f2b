"""The parts of a prediction, measured on next to nothing by a clock that is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from gptwo.base.errors import NativeLibraryError
from gptwo.config import GPT2Config
from gptwo.kernels.library import open_kernels
from gptwo.perf import native_speeds, torch_speeds

TINY = GPT2Config(n_layer=3, n_head=2, n_embd=64, context=1024, vocab_size=32, dropout=0.0)


def seconds_in_turn(*expected: float) -> Callable[..., list[float]]:
    """``typical_seconds`` that runs each piece of work once, and says what a real clock might."""

    def least(pieces: Sequence[Callable[[], object]], *_: object, **__: object) -> list[float]:
        for piece in pieces:
            piece()
        return [expected[i % len(expected)] for i in range(len(pieces))]

    return least


def test_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_speeds, "_ROWS", (4, 8))
    monkeypatch.setattr(torch_speeds, "_WIDTHS", (8, 16))
    monkeypatch.setattr(torch_speeds, "_FEW_ROWS", (1, 2))
    monkeypatch.setattr(torch_speeds, "_LENGTHS", (4, 8))
    monkeypatch.setattr(torch_speeds, "_HEAD_WIDTHS", (4, 8))
    monkeypatch.setattr(torch_speeds, "_VOCABULARIES", {5: 3, 7: 4})
    monkeypatch.setattr(torch_speeds, "_VALUES", (2, 8))
    monkeypatch.setattr(torch_speeds, "_PARAMETERS", 32)
    monkeypatch.setattr(torch_speeds, "typical_seconds", seconds_in_turn(1.0, 3.0))
    found = torch_speeds.torch_speeds(budget_s=0.0)
    products = found["products"]
    assert (products["rows"], products["widths"]) == ([4, 8], [8, 16])
    # Of twelve products every third is a forward one: they take 1, 3, 1 and 3 seconds.
    assert products["forward"] == [[24 * rows * width**2 / 8 for width in (8, 16)] for rows in (4, 8)]
    # Of four products of one row or two two take 1 s and two 3 s.
    assert products["few_rows"] == [1, 2]
    assert products["forward_few"] == [24 * rows * 16**2 / 8 for rows in (1, 2)]
    # Of each head width: forward takes 1 s, with the backward pass 3; 64 texts of 4 tokens, or 32 of 8, of 8 heads.
    attention = found["attention"]
    forward = [1 / (8 * 64 * (4 * 5 / 2)), 1 / (8 * 32 * (8 * 9 / 2))]
    assert attention["forward"] == [forward, forward]
    assert attention["backward"] == [[2 * one for one in forward]] * 2
    head = found["head"]
    assert (head["vocabularies"], head["widths"]) == ([5, 7], [8, 16])
    assert head["flops_per_s"] == [[6 * 3 * 5 * 8, 6 * 3 * 5 * 16 / 3], [6 * 4 * 7 * 8, 6 * 4 * 7 * 16 / 3]]
    assert found["per_value"]["norm"] == 1 / 16
    assert found["per_value"]["adamw"] == 3 / 32
    # 2 layers take 1 s and 10 layers 3.
    assert (found["layer_s"], found["step_s"]) == (0.25, 0.5)


def test_native(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        kernels = open_kernels(1)
    except NativeLibraryError as error:
        pytest.skip(f"{error}")
    monkeypatch.setattr(native_speeds, "_SMALL", (TINY,))
    # Two of its three layers have as many bytes as that in fp32; in 8 bits all would, and more.
    large = replace(TINY, n_embd=128, vocab_size=50)
    monkeypatch.setattr(native_speeds, "_LARGE", (large,))
    monkeypatch.setattr(native_speeds, "_LARGE_BYTES", 2 * 4 * 12 * 128 * 128)
    monkeypatch.setattr(native_speeds, "_DEEP", 32)
    monkeypatch.setattr(native_speeds, "typical_seconds", seconds_in_turn(1.0, 2.0, 4.0, 8.0, 16.0))
    found = native_speeds.native_speeds(kernels, budget_s=0.0)
    # 8 layers take 1 s and 64 layers 2.
    assert found["layer_s"] == pytest.approx(1 / 56)
    assert found["call_s"] == pytest.approx(1 - 8 / 56)
    assert list(found["formats"]) == ["fp32", "bf16", "int8", "int4"]
    small, few = found["formats"]["fp32"]
    of_blocks = 3 * 4 * 12 * 64 * 64
    assert (small["width"], small["bytes"]) == (64, of_blocks + 4 * 32 * 64)
    beside = found["call_s"] + 3 * found["layer_s"]
    assert small["s_per_byte"][0] == pytest.approx((1 - beside) / of_blocks)
    # Many rows go through two of the layers.
    assert small["s_per_byte"][4] == pytest.approx((8 - beside + found["layer_s"]) / (of_blocks * 2 / 3))
    # Eight seconds more for 256 queries that see 32 keys more, in two layers; one more for 32 keys and values of one.
    assert small["prefill_s_per_value"] == pytest.approx(8 / (2 * 256 * 32 * 64))
    assert small["decode_s_per_byte"] == pytest.approx(1 / (2 * 3 * 32 * 64 * 4))
    # One second more for a head of as many bytes as the blocks have, and not of 32 tokens.
    assert small["head_s_per_byte"] == pytest.approx(1 / (4 * (3 * 12 * 64 - 32) * 64))
    # A large model stands for itself with two of its layers, or with more than it has.
    assert few["bytes"] == 3 * 4 * 12 * 128 * 128 + 4 * 64 * 128, "50 tokens in panels of 32"
    beside = found["call_s"] + 2 * found["layer_s"]
    assert few["s_per_byte"][0] == pytest.approx((1 - beside) / (2 * 4 * 12 * 128 * 128))
    assert few["head_s_per_byte"] == pytest.approx(1 / (4 * (2 * 12 * 128 - 32) * 128))
    in_int8 = found["formats"]["int8"][1]
    of_layer = native_speeds.block_bytes(replace(large, n_layer=1), "int8")
    beside = found["call_s"] + 7 * found["layer_s"]
    assert in_int8["s_per_byte"][0] == pytest.approx((1 - beside) / (7 * of_layer))
