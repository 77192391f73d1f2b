from __future__ import annotations

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
    session = engine.start(rows=1, capacity=8)
    session.prefill(np.arange(6)[None])
    session.select([0, 0])
    first, second = session.decode(np.array([1, 1]))
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
