from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config
from gptwo.infer import torch_engine
from gptwo.infer.torch_engine import TorchEngine, parse_dtype
from gptwo.model import build_model
from gptwo.model.gpt2 import GPT2

CONFIG = GPT2Config(n_layer=1, n_head=1, n_embd=8, context=8, vocab_size=7, dropout=0.5)


def test_a_model_in_training_is_run_without_dropout_and_without_gradients() -> None:
    model = GPT2(CONFIG, device="cpu").train()
    engine = TorchEngine(model, device=torch.device("cpu"))
    assert np.array_equal(engine.logits(np.arange(6)), engine.logits(np.arange(6)))
    session = engine.start(slots=2, capacity=8)
    session.prefill([0], [np.arange(6)])
    session.copy(0, 1)
    first, second = session.decode([0, 1], np.array([1, 1]))
    assert np.array_equal(first, second)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("fp32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("torch.float64", torch.float64),
        ("fp16", torch.half),
    ],
)
def test_dtype_names(name: str, dtype: torch.dtype) -> None:
    assert parse_dtype(name) is dtype


def test_other_dtypes_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^dtype 'torch.int8' is unknown; expected one of [^\n]+$"):
        parse_dtype("torch.int8")


def test_scoring_in_parts_is_scoring_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(build_model(CONFIG, seed=0, device="cpu"), device=torch.device("cpu"))
    rows, last = [np.arange(6), np.array([3, 1, 4])], [5, 2]
    at_once = engine.score(rows, last)
    for values in (1, 7, 3 * 7, 4 * 7):  # below one row of V=7 logits, one row, three, four
        monkeypatch.setattr(torch_engine, "_LOGITS_AT_ONCE", values)
        for part, whole in zip(engine.score(rows, last), at_once, strict=True):
            assert np.allclose(part.log_probs, whole.log_probs, atol=1e-6)
            assert np.array_equal(part.greedy, whole.greedy)


def passes_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the tokens of every forward pass from now on."""
    passes = []
    residual = GPT2.residual

    def recorded(self: GPT2, tokens: torch.Tensor, **options: Any) -> torch.Tensor:
        passes.append(tuple(tokens.shape))
        return residual(self, tokens, **options)

    monkeypatch.setattr(GPT2, "residual", recorded)
    return passes


def test_slots_of_several_lengths_decode_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(build_model(CONFIG, seed=0, device="cpu"), device=torch.device("cpu"))
    session = engine.start(slots=4, capacity=8)
    passes = passes_of(monkeypatch)
    session.prefill([0, 1, 2, 3], [np.arange(2), np.arange(5), np.arange(2), np.arange(1)])
    assert passes == [(2, 2), (1, 5), (1, 1)], "texts of one length together"
    passes.clear()
    session.decode([3, 0, 1], np.arange(3))
    assert passes == [(3, 1)]


def test_what_lies_behind_a_short_slot_is_hidden() -> None:
    """In one pass it is padded to the length of the longest."""
    engine = TorchEngine(build_model(CONFIG, seed=0, device="cpu"), device=torch.device("cpu"))
    session = engine.start(slots=2, capacity=8)
    session.prefill([0, 1], [np.arange(1), np.arange(6)])
    first, _ = session.decode([0, 1], np.array([3, 3]))
    assert np.allclose(first, engine.logits(np.array([0, 3]))[-1], atol=1e-6)


@pytest.mark.parametrize(("value", "how"), [(None, "in"), ("1", "in"), ("0", "without")])
def test_graphs_can_be_turned_off_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str | None, how: str
) -> None:
    monkeypatch.delenv("GPTWO_CUDA_GRAPHS", raising=False)
    if value is not None:
        monkeypatch.setenv("GPTWO_CUDA_GRAPHS", value)
    monkeypatch.setattr(torch_engine, "resolve_device", torch.device)
    monkeypatch.setattr(torch_engine, "load_model", lambda *_, **__: GPT2(CONFIG, device="cpu"))
    engine = TorchEngine.load(Path("any"), device="cuda:0", dtype=None, threads=None)
    assert engine.description == f"torch on cuda:0 in float32, decoding {how} CUDA graphs"
    on_the_cpu = TorchEngine.load(Path("any"), device="cpu", dtype=None, threads=None)
    assert on_the_cpu.description == "torch on cpu in float32"
