"""Writing on a device (paper §8), without a GPU: every tensor must be where the model is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fake_cuda import fake_cuda
from gptwo.config import GPT2Config
from gptwo.infer import torch_engine
from gptwo.infer.cuda_decode import DecodeGraphs, StaticRows
from gptwo.infer.generate import write
from gptwo.infer.kv_cache import CacheRows, KVCache
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.task import Task
from gptwo.infer.torch_engine import TorchEngine
from gptwo.model.gpt2 import GPT2

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=8, context=10, vocab_size=13)


@pytest.fixture
def device() -> Iterator[torch.device]:
    with fake_cuda() as device:
        yield device


def plainly(model: GPT2, cache: KVCache) -> DecodeGraphs:
    """Steps as they are captured on a CUDA device, run as they are: there is nothing here to capture them."""
    return DecodeGraphs(model, cache, lambda step: step, shortest=4)


@pytest.fixture(params=[None, plainly], ids=["run by Python", "static"])
def engine(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> TorchEngine:
    """An engine whose numbers, which do not exist, are replaced where they would leave the device."""

    def to_host(logits: Tensor) -> np.ndarray[Any, Any]:
        assert logits.device == device
        return np.random.default_rng(0).normal(size=tuple(logits.shape)).astype(np.float32)

    monkeypatch.setattr(torch_engine, "to_host", to_host)
    return TorchEngine(GPT2(CONFIG, device=device), device=device, graphs=request.param)


def write_past_the_context(engine: TorchEngine) -> list[int]:
    """Prefill, its copies, decoding of slots of one length and of several, a full cache and a slide."""
    policy = SamplingPolicy(seed=0, top_p=0.9)
    # In pairs: of a tensor with one element, a single token, this torch asks for the number itself.
    prompts = [np.arange(4), np.arange(4), np.arange(7), np.arange(7)]
    task = Task(prompts=prompts, policy=policy, max_new_tokens=14, slide=True)
    written = write(engine, None, task)
    while True:
        try:
            next(written)
        except StopIteration as end:
            return [len(generation.tokens) for generation in end.value]


def test_writing_keeps_every_tensor_on_the_device(engine: TorchEngine) -> None:
    assert write_past_the_context(engine) == [14] * 4


def test_prefill_in_chunks_and_all_logits_stay_on_the_device(engine: TorchEngine) -> None:
    session = engine.start(slots=4, capacity=9)
    session.prefill([0, 1], [np.ones(3, dtype=np.int64)] * 2)
    assert session.prefill([0, 1], [np.ones(4, dtype=np.int64)] * 2).shape == (2, 13)
    assert session.decode([0, 1], np.ones(2, dtype=np.int64)).shape == (2, 13)
    session.copy(1, 3)
    session.truncate(1, 2)
    for slots in ([0, 3], [3, 1], [1, 2, 3]):  # apart and of one length, of several lengths, and an empty one
        session.truncate(3, 7)
        session.truncate(0, 7)
        assert [
            logits.shape for logits in session.read(slots, [np.arange(2)] * len(slots), [2] * len(slots))
        ] == [(2, 13)] * len(slots)
    assert engine.logits(np.arange(5)).shape == (5, 13)
    scores = engine.score([np.arange(5), np.arange(11)], [4, 3])
    assert [(scored.log_probs.shape, scored.greedy.shape) for scored in scores] == [
        ((4,), (4,)),
        ((3,), (3,)),
    ]


def test_a_planted_cpu_arange_in_the_model_is_caught(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commonest failure of all: positions made on the CPU while the model is on the GPU."""

    def residual(self: GPT2, tokens: Tensor, *, cache: CacheRows) -> Tensor:
        positions = torch.arange(tokens.shape[1], device="cpu")
        return self.token_embedding(tokens) + self.position_embedding(positions)

    monkeypatch.setattr(GPT2, "residual", residual)
    with pytest.raises(RuntimeError, match=r"cpu.*cuda|cuda.*cpu"):
        engine.start(slots=1, capacity=4).prefill([0], [np.arange(4)])


@pytest.mark.parametrize(
    ("engine", "rows"),
    [(None, CacheRows), (plainly, StaticRows)],
    indirect=["engine"],
    ids=["cache", "static"],
)
def test_a_planted_cpu_arange_in_the_cache_is_caught(
    engine: TorchEngine, rows: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = rows.append

    def append_with_cpu_positions(self: Any, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        k_BHSK, v_BHSK = append(self, layer, k, v)
        return k_BHSK + torch.arange(k_BHSK.shape[2], device="cpu")[:, None], v_BHSK

    monkeypatch.setattr(rows, "append", append_with_cpu_positions)
    with pytest.raises(RuntimeError, match=r"cpu.*cuda|cuda.*cpu"):
        write_past_the_context(engine)


@pytest.mark.parametrize(
    ("engine", "how"), [(None, "without"), (plainly, "in")], indirect=["engine"], ids=["by Python", "static"]
)
def test_the_engine_says_how_it_decodes(engine: TorchEngine, how: str) -> None:
    assert engine.description == f"torch on cuda:0 in float32, decoding {how} CUDA graphs"
