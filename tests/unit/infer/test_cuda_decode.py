"""Decoding in graphs, by a stand-in that records on the CPU; beside it tests/contract, and on a GPU the last test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from gptwo.base.errors import ContextLengthError, DeviceError
from gptwo.config import GPT2Config
from gptwo.infer.cuda_decode import DecodeGraphs, Recorder, StaticRows, cuda_graphs
from gptwo.infer.kv_cache import KVCache
from gptwo.infer.torch_engine import TorchEngine, TorchSession
from gptwo.model.gpt2 import GPT2
from model_cases import random_model
from recorded_graph import record
from tolerance import FLOAT64, Tolerance

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=8, context=40, vocab_size=13)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> GPT2:
    return random_model(CONFIG)


def session_of(model: GPT2, recorder: Recorder = record, *, warm_ups: int = 2) -> TorchSession:
    def graphs(model: GPT2, cache: KVCache) -> DecodeGraphs:
        return DecodeGraphs(model, cache, recorder, warm_ups=warm_ups, shortest=4)

    return TorchEngine(model, device=CPU, graphs=graphs).start(slots=4, capacity=CONFIG.context)


def some_tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, count)


def decode_and_compare(model: GPT2, session: TorchSession, steps: int = 12) -> None:
    """Three slots of several lengths, step by step beside a session that has no graphs."""
    plain = TorchEngine(model, device=CPU).start(slots=4, capacity=CONFIG.context)
    slots, texts = [2, 0, 1], [some_tokens(length, seed=length) for length in (1, 6, 9)]
    for one in (plain, session):
        one.prefill(slots, texts)
    for step in range(steps):
        named = slots if step % 3 else sorted(slots)
        tokens = some_tokens(3, seed=100 + step)
        FLOAT64.assert_close(session.decode(named, tokens), plain.decode(named, tokens), f"step {step}")
        assert session.lengths.tolist() == plain.lengths.tolist()


@pytest.mark.parametrize("warm_ups", [0, 2])
def test_recorded_steps_give_the_logits_of_plain_ones(model: GPT2, warm_ups: int) -> None:
    decode_and_compare(model, session_of(model, warm_ups=warm_ups))


def test_a_step_is_recorded_once_for_each_number_of_rows_and_each_reach(model: GPT2) -> None:
    recorded: list[torch.Size] = []
    replayed: list[int] = []

    def counting(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        replay = record(step)
        number = len(recorded)
        recorded.append(replay().shape)

        def counted() -> Tensor:
            replayed.append(number)
            return replay()

        return counted

    session = session_of(model, counting)
    for length in range(40):  # reaches of 4, 8, 16, 32 and, cut to the capacity, 40
        session.decode([0], some_tokens(1))
        assert len(recorded) == sum(length >= begin + 2 for begin in (0, 4, 8, 16, 32))
    # Four runs of the first reach, two of them plain; twice as many of each that follows, and eight of the last.
    assert replayed == [0] * 2 + [1] * 2 + [2] * 6 + [3] * 14 + [4] * 6
    for slots in ([1, 2], [1, 2], [2, 1], [0], [1, 2]):
        if slots == [0]:
            session.truncate(0, 20)
        session.decode(slots, some_tokens(len(slots)))
    assert recorded == [(1, 13)] * 5 + [(2, 13)]
    assert replayed[-3:] == [5, 3, 5]


def test_a_length_that_is_recorded_as_a_number_is_seen(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that a graph invites: right as long as Python runs the step, and in a graph for ever the same."""

    def append_at_the_length_of_now(
        self: StaticRows, layer: int, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        held = self._pool.kv_L2BHSK[layer]
        held[:, 0, :, int(self._pool.lengths[0])] = torch.stack([k, v])[:, 0, :, 0]
        return held[0, :1, :, : self._reach], held[1, :1, :, : self._reach]

    def logits(recorder: Recorder) -> np.ndarray:
        session = session_of(model, recorder)
        return np.stack([session.decode([0], some_tokens(1, seed)) for seed in range(9)])

    expected = logits(record)
    monkeypatch.setattr(StaticRows, "append", append_at_the_length_of_now)
    FLOAT64.assert_close(logits(lambda step: step), expected, "run by Python")
    with pytest.raises(AssertionError, match="differ by more than allowed"):
        FLOAT64.assert_close(logits(record), expected, "recorded")


@pytest.mark.parametrize(
    "planted", [lambda lengths: lengths.max().item(), lambda lengths: torch.tensor([3]) + lengths]
)
def test_a_step_that_waits_for_the_device_or_copies_from_the_host_is_refused(
    model: GPT2, monkeypatch: pytest.MonkeyPatch, planted: Callable[[Tensor], object]
) -> None:
    append = StaticRows.append

    def append_and_ask(self: StaticRows, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        planted(self.lengths)
        return append(self, layer, k, v)

    monkeypatch.setattr(StaticRows, "append", append_and_ask)
    session = session_of(model, warm_ups=0)
    with pytest.raises(DeviceError, match=r"captured as a CUDA graph: aten.* cannot be part"):
        session.decode([0], some_tokens(1))


def test_a_capture_that_fails_is_an_error_in_one_line_and_changes_nothing(model: GPT2) -> None:
    def failing(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        try:
            raise RuntimeError("CUDA error: operation not permitted\nCompile with TORCH_USE_CUDA_DSA")
        finally:  # as torch's context of a capture does
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    session = session_of(model, failing)
    for _ in range(2):
        session.decode([0, 1], some_tokens(2))
    for _ in range(2):  # the second time too: nothing else is done instead
        with pytest.raises(
            DeviceError, match=r"^[^\n]*: CUDA error: operation not permitted; GPTWO_CUDA_GRAPHS=0 [^\n]*$"
        ):
            session.decode([0, 1], some_tokens(2))
        assert session.lengths.tolist() == [2, 2, 0, 0]


def test_a_full_slot_is_refused_before_anything_is_written(model: GPT2) -> None:
    session = session_of(model, warm_ups=0)
    session.prefill([0, 1], [some_tokens(40), some_tokens(3)])
    with pytest.raises(ContextLengthError, match=r"^41 tokens are more than the cache's capacity of 40"):
        session.decode([0, 1], some_tokens(2))
    assert session.lengths.tolist() == [40, 3, 0, 0]


NEAR = {
    torch.float32: Tolerance(atol=2e-4, rtol=1e-5, why="fp32, logits near 30; other kernels of attention"),
    torch.bfloat16: Tolerance(
        atol=0.5, rtol=0.05, why="bf16 has 8 bits, logits near 30; other kernels of attention"
    ),
}


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; tests/contract too then runs on it"
)
@pytest.mark.parametrize("dtype", NEAR, ids=str)
def test_graphs_on_a_gpu_replay_what_runs_without_them(dtype: torch.dtype) -> None:
    """A graph that repeated old lengths or wrote to other memory would be far off; bf16 is off by its rounding."""
    device = torch.device("cuda", 0)
    model = random_model(GPT2Config(n_layer=2, n_head=4, n_embd=64, context=512, vocab_size=501), dtype=dtype)
    model = model.to(device)
    plain, replayed = (
        TorchEngine(model, device=device, graphs=graphs).start(slots=4, capacity=300)
        for graphs in (None, cuda_graphs)
    )
    choose = np.random.default_rng(0)
    texts = [choose.integers(0, 501, length) for length in (50, 3, 61)]
    for session in (plain, replayed):
        session.prefill([0, 1, 3], texts)
    for step in range(100):
        slots = ([0, 1, 3], [0, 1], [3])[step % 3]
        tokens = choose.integers(0, 501, len(slots))
        NEAR[dtype].assert_close(replayed.decode(slots, tokens), plain.decode(slots, tokens), f"step {step}")
