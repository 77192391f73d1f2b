from __future__ import annotations

import numpy as np
import pytest
import torch

from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config
from gptwo.infer.torch_engine import TorchEngine, parse_dtype
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
