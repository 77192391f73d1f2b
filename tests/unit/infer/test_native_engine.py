"""The native engine at lengths where it works in blocks, tiles and chunks; what all must do is in the contract."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptwo
from gptwo.base.errors import TokenizerError
from gptwo.config import GPT2Config
from gptwo.infer import native_engine
from gptwo.infer.engine import Engine
from gptwo.infer.engines import load_engine
from gptwo.infer.native_engine import NativeEngine, NativeSession
from random_checkpoint import write_random_checkpoint

C, V = 400, 61
# Heads of whole groups of 32, and others.
SHAPES = {
    "K=32": GPT2Config(n_layer=2, n_head=2, n_embd=64, context=C, vocab_size=V),
    "K=22": GPT2Config(n_layer=2, n_head=3, n_embd=66, context=C, vocab_size=V),
}
# Of the weights, and of keys and values.
DTYPES = [("fp32", "fp32"), ("bf16", "bf16"), ("int8", "int8"), ("int4", "bf16"), ("fp32", "int8")]
USUAL = {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "int4": "int8"}
each_dtype = pytest.mark.parametrize(("dtype", "kv_dtype"), DTYPES, ids="-".join)


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("models") / "model", SHAPES[request.param])


@pytest.fixture
def engine(folder: Path) -> Engine:
    return load_engine(folder, engine="native", dtype="fp32", threads=2)


def text_of(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, length)


@each_dtype
def test_logits_are_the_same_bits_in_any_company_and_on_any_threads(
    folder: Path, dtype: str, kv_dtype: str
) -> None:
    def loaded(threads: int) -> Engine:
        return load_engine(folder, engine="native", dtype=dtype, kv_dtype=kv_dtype, threads=threads)

    texts = [text_of(length, seed) for seed, length in enumerate((390, 257, 65, 33, 1))]
    alone = loaded(threads=1)
    expected = [alone.logits(text) for text in texts]
    choose = np.random.default_rng(1)
    for threads in (1, 3):
        session = loaded(threads).start(slots=len(texts), capacity=C)
        while left := [i for i, text in enumerate(texts) if session.lengths[i] < len(text)]:
            slots = [i for i in left if choose.random() < 0.8] or left
            parts = [
                texts[i][(begin := session.lengths[i]) : begin + choose.choice([1, 2, 31, 64, 129, 300])]
                for i in slots
            ]
            begins = [int(session.lengths[i]) for i in slots]
            if choose.random() < 0.5:
                got = session.read(slots, parts, [len(part) for part in parts])
                wanted = [expected[i][b : b + len(p)] for i, b, p in zip(slots, begins, parts, strict=True)]
            else:
                got = list(session.prefill(slots, parts))
                wanted = [expected[i][b + len(p) - 1] for i, b, p in zip(slots, begins, parts, strict=True)]
            for logits, bits in zip(got, wanted, strict=True):
                assert np.array_equal(logits, bits)


@each_dtype
def test_copied_and_cut_slots_of_several_blocks_go_on_for_themselves(
    folder: Path, dtype: str, kv_dtype: str
) -> None:
    engine = load_engine(folder, engine="native", dtype=dtype, kv_dtype=kv_dtype, threads=2)
    text, other = text_of(200), text_of(200, seed=1)
    session = engine.start(slots=2, capacity=C)
    session.prefill([0], [text[:100]])
    session.copy(0, 1)
    session.truncate(1, 70)
    mixed = np.concatenate([text[:70], other[:80]])
    assert np.array_equal(session.read([1], [other[:80]], [80])[0], engine.logits(mixed)[70:])
    assert np.array_equal(session.read([0], [text[100:]], [100])[0], engine.logits(text)[100:])


@each_dtype
def test_what_is_reused_goes_on_with_the_same_bits(folder: Path, dtype: str, kv_dtype: str) -> None:
    engine = load_engine(folder, engine="native", dtype=dtype, kv_dtype=kv_dtype, threads=2)
    text, other = text_of(200), np.concatenate([text_of(100), text_of(80, seed=1)])
    session = engine.start(slots=2, capacity=C, pool=C)
    session.prefill([0], [text])
    assert session.reuse(1, other) == 96  # of a text that is still there
    assert np.array_equal(session.read([1], [other[96:]], [84])[0], engine.logits(other)[96:])
    session.truncate(0, 0)
    session.truncate(1, 0)
    assert session.use == 0
    assert session.reuse(0, text) == 192  # of one that has gone
    assert np.array_equal(session.read([0], [text[192:]], [8])[0], engine.logits(text)[192:])


def test_keys_and_values_are_kept_as_asked(folder: Path, engine: Engine) -> None:
    text, expected = text_of(300), engine.logits(text_of(300))
    differences, kept_bytes = [], []
    for kv_dtype in ("fp32", "bf16", "int8"):
        other = load_engine(folder, engine="native", dtype="fp32", kv_dtype=kv_dtype, threads=2)
        differences.append(np.abs(other.logits(text) - expected).mean())
        session = other.start(slots=1, capacity=C)
        assert isinstance(session, NativeSession)
        kept_bytes.append(session._cache.bytes)
    exact, bf16, int8 = differences
    assert exact == 0 < bf16 < int8 < 0.03 * expected.std()
    assert kept_bytes[0] > 1.9 * kept_bytes[1] > 2.5 * kept_bytes[2]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", "int4"])
def test_the_description_names_what_was_chosen(folder: Path, dtype: str) -> None:
    def described(kv_dtype: str | None) -> str:
        return load_engine(folder, engine="native", dtype=dtype, kv_dtype=kv_dtype, threads=1).description

    usual = described(None)
    assert usual.startswith(f"native on cpu in {dtype} (")
    for kv_dtype in ("fp32", "bf16", "int8"):
        named = described(kv_dtype).startswith(
            f"native on cpu in {dtype} with keys and values in {kv_dtype} ("
        )
        assert named or (kv_dtype == USUAL[dtype] and described(kv_dtype) == usual)


@pytest.mark.parametrize("at_once", [1, 7, 40, 10_000])
def test_scores_are_the_same_bits_however_many_are_held(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    rows = [text_of(length, seed) for seed, length in enumerate((60, 2, 130, 33, 9))]
    last = [20, 1, 129, 5, 8]
    expected = [engine.score([row], [n])[0] for row, n in zip(rows, last, strict=True)]
    monkeypatch.setattr(native_engine, "_LOGITS_AT_ONCE", at_once * V)
    for got, wanted, n in zip(engine.score(rows, last), expected, last, strict=True):
        assert len(got.log_probs) == n
        assert np.array_equal(got.log_probs, wanted.log_probs)
        assert np.array_equal(got.greedy, wanted.greedy)


def test_a_session_keeps_the_weights_that_it_reads(folder: Path) -> None:
    expected = load_engine(folder, engine="native", dtype="fp32").logits(text_of(40))[-1]
    session = load_engine(folder, engine="native", dtype="fp32").start(slots=1, capacity=C)
    gc.collect()
    assert np.array_equal(session.prefill([0], [text_of(40)])[0], expected)


def test_a_call_that_fails_has_changed_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    text, other = text_of(80), text_of(80, seed=1)
    session = engine.start(slots=2, capacity=C)
    session.prefill([0], [text[:31]])

    def no_memory(*arguments: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(NativeEngine, "forward", no_memory)
        with pytest.raises(MemoryError):
            session.prefill([0], [text[31:70]])
    session.copy(0, 1)
    session.prefill([1], [other])
    assert np.array_equal(session.read([0], [text[31:]], [49])[0], engine.logits(text)[31:])


@pytest.mark.parametrize("tokens", [[60_000_000], [V], [-1], [3, 2**40]])
def test_ids_that_the_model_does_not_have_are_refused(engine: Engine, tokens: list[int]) -> None:
    with pytest.raises(TokenizerError, match="is not in the model's vocabulary"):
        engine.logits(np.array(tokens))
    session = engine.start(slots=2, capacity=C)
    with pytest.raises(TokenizerError, match="is not in the model's vocabulary"):
        session.prefill([0, 1], [text_of(3), np.array(tokens)])
    assert session.lengths.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("slots", "texts"), [([0], [[]]), ([0, 1], [[1], []]), ([0, 0], [[1], [2]])], ids=str
)
def test_empty_texts_and_a_slot_named_twice_are_refused(
    engine: Engine, slots: list[int], texts: Sequence[list[int]]
) -> None:
    session = engine.start(slots=2, capacity=C)
    with pytest.raises(ValueError, match="expected distinct slots and a token for each"):
        session.prefill(slots, [np.array(text, dtype=np.int64) for text in texts])


def test_auto_leaves_heads_that_are_too_wide_to_torch(tmp_path: Path) -> None:
    wide = GPT2Config(n_layer=1, n_head=1, n_embd=320, context=4, vocab_size=5)
    model = gptwo.load(write_random_checkpoint(tmp_path / "wide", wide), "cpu", "fp32")
    assert model.description == "torch on cpu in float32; the native engine has heads of at most 256, not 320"
