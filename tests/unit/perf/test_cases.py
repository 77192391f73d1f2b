"""What is timed is what was asked for: how often, on which tokens, and in which parts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from gptwo.base.errors import ConfigError, ContextLengthError, DeviceError, NativeLibraryError
from gptwo.config import GPT2Config
from gptwo.infer.engine import Session
from gptwo.kernels.library import instruction_sets
from gptwo.perf import cases
from gptwo.perf.cases import Bench
from gptwo.perf.initialisation import init
from gptwo.perf.process import ask
from gptwo.perf.training_case import PARTS, train
from gptwo.tokenizer import Tokenizer
from gptwo.tokenizer.build import build_byte
from random_checkpoint import write_random_checkpoint

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=8, context=48, vocab_size=257, dropout=0.0)
try:
    ENGINES = ["torch", "native"] if instruction_sets() else []
except NativeLibraryError as error:
    ENGINES = ["torch", pytest.param("native", marks=pytest.mark.skip(reason=str(error)))]
each_engine = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_random_checkpoint(tmp_path_factory.mktemp("model"), CONFIG, dtype=torch.float32)
    build_byte().save(folder)
    return str(folder)


class Recorder:
    """A session that notes what is read, and leaves the rest to the real one."""

    def __init__(self, session: Session, reads: list[tuple[list[int], list[int]]]) -> None:
        self._session = session
        self._reads = reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def _note(self, slots: Any, texts: Any) -> None:
        self._reads.append(
            ([int(self._session.lengths[slot]) for slot in slots], [len(text) for text in texts])
        )

    def read(self, slots: Any, texts: Any, last: Any) -> Any:
        self._note(slots, texts)
        return self._session.read(slots, texts, last)

    def prefill(self, slots: Any, texts: Any) -> Any:
        self._note(slots, texts)
        return self._session.prefill(slots, texts)

    def read_top(self, slots: Any, texts: Any, last: Any, k: int) -> Any:
        self._note(slots, texts)
        return self._session.read_top(slots, texts, last, k)


def recorded(bench: Bench) -> list[tuple[list[int], list[int]]]:
    """Of every pass from now on: what each slot held, and how many tokens it was given."""
    reads: list[tuple[list[int], list[int]]] = []
    start = bench._engine.start
    bench._engine.start = lambda **settings: Recorder(start(**settings), reads)  # type: ignore[method-assign,assignment]
    return reads


@each_engine
def test_a_prefill_reads_whole_texts_each_time_anew(model: str, engine: str) -> None:
    bench = Bench(model, engine=engine, threads=1, batch=2, samples=3)
    reads = recorded(bench)
    found = bench.prefill(tokens=5)
    assert reads == [([0, 0], [5, 5])] * 4  # one to warm up
    assert len(found["seconds"]) == 3
    assert all(seconds > 0 for seconds in found["seconds"])
    assert engine in found["description"]
    assert 0 < found["memory_before_bytes"] <= found["peak_memory_bytes"]


@each_engine
def test_decoding_begins_at_its_depth(model: str, engine: str) -> None:
    bench = Bench(model, engine=engine, threads=1, batch=2, samples=6)
    reads = recorded(bench)
    found = bench.decode(past=7)
    steps = [([at, at], [1, 1]) for at in range(7, 13)]
    assert reads == [([0, 0], [7, 7]), *steps[: cases._WARM_UP_TOKENS], *steps]
    assert len(found["seconds"]) == 6
    assert found["first_token_s"] > 0


@each_engine
def test_decoding_from_nothing_has_no_first_token_of_a_prompt(model: str, engine: str) -> None:
    bench = Bench(model, engine=engine, threads=1, samples=2)
    reads = recorded(bench)
    assert bench.decode(past=0)["first_token_s"] is None
    assert reads == [([0], [1]), ([1], [1])] * 2


@each_engine
def test_a_forward_pass_is_of_all_tokens(model: str, engine: str) -> None:
    bench = Bench(model, engine=engine, threads=1, batch=3, samples=2)
    reads = recorded(bench)
    assert len(bench.forward(tokens=4)["seconds"]) == 2
    assert reads == ([([0] * 3, [4] * 3)] * 3 if engine == "native" else [])


def test_the_torch_engines_forward_pass_is_the_models(model: str) -> None:
    bench = Bench(model, engine="torch", batch=3, samples=2)
    shapes = []
    bench._engine.model.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))  # type: ignore[attr-defined]
    bench.forward(tokens=4)
    assert shapes == [(3, 4, 257)] * 3


def test_with_text_the_prompt_is_encoded_and_the_tokens_drawn(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model, engine="torch", batch=2, samples=5)
    encoded: list[str] = []
    encode = Tokenizer.encode

    def noting(self: Tokenizer, text: str, **settings: Any) -> list[int]:
        encoded.append(text)
        return encode(self, text, **settings)

    monkeypatch.setattr(Tokenizer, "encode", noting)
    reads = recorded(bench)
    assert len(bench.prefill(tokens=9, with_text=True)["seconds"]) == 5
    assert reads == [([0, 0], [9, 9])] * 6
    assert encoded[-1].startswith("The sea")
    found = bench.decode(past=6, with_text=True)
    assert len(found["seconds"]) == 5
    assert found["first_token_s"] > 0


@pytest.mark.parametrize("tokens", [1, 17, 300])
def test_a_text_of_so_many_tokens(tokens: int) -> None:
    tokenizer = build_byte()
    assert len(tokenizer.encode(cases._text_of(tokenizer, tokens))) == tokens


def test_past_the_context_is_a_users_mistake(model: str) -> None:
    with pytest.raises(ContextLengthError):
        Bench(model, engine="torch").prefill(tokens=49)
    with pytest.raises(ConfigError, match="samples=0"):
        Bench(model, samples=0)


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "micro_batch"), [("adamw", None), ("muon", 1)])
def test_a_step_is_the_sum_of_its_parts(
    model: str, optimizer: Any, micro_batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptwo.train.setup.keep_freed_memory", lambda: True)
    found = train(model, batch=3, tokens=16, micro_batch=micro_batch, optimizer=optimizer, samples=2)
    assert len(found["seconds"]) == 2
    assert set(found["split"]) == set(PARTS)
    for i, seconds in enumerate(found["seconds"]):
        parts = [found["split"][part][i] for part in PARTS]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(seconds)
    assert found["description"] == f"torch on cpu in fp32, {optimizer}"


# --- a start --------------------------------------------------------------------------------------------------------


@each_engine
def test_the_steps_of_a_start(model: str, engine: str) -> None:
    found = init(model, engine=engine, threads=1)
    names = [step["name"] for step in found["steps"]]
    packed = ["pack"] if engine == "native" else []
    assert names == ["import", "device", "read cold", "read warm", *packed, "load", "first token"]
    by_name = {step["name"]: step for step in found["steps"]}
    assert (by_name["read cold"]["seconds"] is None) == (by_name["read cold"]["note"] is not None)
    counted = [step["seconds"] for step in found["steps"] if step["counts"]]
    assert len(counted) == 4
    assert found["total_s"] == pytest.approx(sum(counted))


# --- in a process of its own ----------------------------------------------------------------------------------------


def test_a_worker_answers(model: str) -> None:
    request = {"what": "decode", "model": model, "engine": "torch", "past": 2, "samples": 3}
    found = json.loads(json.dumps(ask(request)))
    assert np.shape(found["seconds"]) == (3,)


def test_a_mistake_of_the_users_is_raised_here() -> None:
    with pytest.raises(DeviceError, match="cuda:99"):
        ask({"what": "ceilings", "device": "cuda:99"})


def test_any_other_end_says_what_it_was() -> None:
    with pytest.raises(
        RuntimeError, match="measuring 'nothing' failed: ValueError: there is no measurement 'nothing'"
    ):
        ask({"what": "nothing"})
