"""What every engine must do, over the table of engines: a new one is tested by being registered.

Where an engine promises batch invariance, what it computes twice is compared bit by bit, and else within a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptwo.base.errors import ContextLengthError
from gptwo.checkpoint.weights import load_model
from gptwo.config import GPT2Config
from gptwo.infer.cuda_decode import DecodeGraphs
from gptwo.infer.engine import Engine, Session
from gptwo.infer.engines import ENGINES, load_engine
from gptwo.infer.generate import result_of, write
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.task import Generation, Task
from gptwo.infer.torch_engine import TorchEngine, parse_dtype
from gptwo.model import equations
from random_checkpoint import random_weights, write_random_checkpoint
from recorded_graph import record
from scripted_engine import ScriptedEngine, ScriptedSession
from tolerance import Tolerance

# Odd sizes: nothing is a multiple of a vector's width.
CONFIG = GPT2Config(n_layer=3, n_head=3, n_embd=21, context=19, vocab_size=37, n_inner=50, dropout=0.1)
C, V = CONFIG.context, CONFIG.vocab_size

# What each engine computes in, of what is tested here.
DTYPES = {"native": ("fp32", "bf16", "int8", "int4"), "torch": ("fp32", "fp64")}
BATCH_INVARIANT = {"native"}
# Of those that are near the equations. Others have a budget instead.
TOLERANCES = {
    "fp32": Tolerance(atol=5e-5, rtol=1e-5, why="fp32 over 3 layers, logits near 10; sums in another order"),
    "fp64": Tolerance(atol=1e-12, rtol=1e-12, why="fp64, logits near 10; sums in another order"),
}
HOST_DTYPES = {"fp64": np.float64}

# The torch engine as it runs on a CUDA device: here with graphs that a stand-in records, and on one that is there.
IN_GRAPHS, ON_CUDA = "torch in graphs", "torch on cuda"
KINDS = [
    *((name, dtype) for name in ENGINES for dtype in DTYPES[name]),
    (IN_GRAPHS, "fp32"),
    (IN_GRAPHS, "fp64"),
    *([(ON_CUDA, "fp32")] if torch.cuda.is_available() else []),
]
Same = Callable[[np.ndarray, np.ndarray, str], None]


def bitwise(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert actual.shape == expected.shape, what
    assert np.array_equal(actual, expected), f"{what}: not the same bits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("models") / "odd", CONFIG)


@pytest.fixture(scope="module", params=KINDS, ids=" ".join)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    name, dtype = request.param
    return name, dtype


near_the_equations = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind[1] in TOLERANCES], ids=" ".join, indirect=True
)
keeps_the_promise = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind[0] in BATCH_INVARIANT], ids=" ".join, indirect=True
)


@pytest.fixture(scope="module")
def engine(folder: Path, kind: tuple[str, str]) -> Engine:
    name, dtype = kind
    if name == ON_CUDA:
        return load_engine(folder, engine="torch", device="cuda", dtype=dtype)
    if name == IN_GRAPHS:
        cpu = torch.device("cpu")
        return TorchEngine(
            load_model(folder, device=cpu, dtype=parse_dtype(dtype)),
            device=cpu,
            # Recorded at once, and for several lengths: short texts are to be decoded by what was recorded.
            graphs=lambda model, cache: DecodeGraphs(model, cache, record, warm_ups=0, shortest=4),
        )
    return load_engine(folder, engine=name, device="cpu", dtype=dtype)


@pytest.fixture(scope="module")
def same(engine: Engine, kind: tuple[str, str]) -> Same:
    return bitwise if engine.batch_invariant else TOLERANCES[kind[1]].assert_close


def some_tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, count)


def some_texts(*lengths: int) -> list[np.ndarray]:
    return [some_tokens(length, seed=number) for number, length in enumerate(lengths)]


def started(engine: Engine, slots: int, capacity: int = C) -> Session:
    return engine.start(slots=slots, capacity=capacity)


def alone(engine: Engine, text: np.ndarray) -> np.ndarray:
    """The logits after the last token of a text that is read at once, with nothing beside it."""
    logits: np.ndarray = started(engine, 1).prefill([0], [text])[0]
    return logits


# --- What it computes -------------------------------------------------------------------------------------------------


@near_the_equations
def test_logits_are_those_of_the_papers_equations(engine: Engine, kind: tuple[str, str]) -> None:
    weights = equations.paper_weights(random_weights(CONFIG, seed=0), CONFIG.n_layer, CONFIG.n_head)
    for T in (1, 2, C):
        tokens = some_tokens(T)
        expected = equations.forward(torch.from_numpy(tokens), weights, CONFIG.layer_norm_epsilon)
        TOLERANCES[kind[1]].assert_close(engine.logits(tokens), expected, f"T={T}")


def test_logits_are_numpy_arrays_in_host_memory(engine: Engine, kind: tuple[str, str]) -> None:
    session = started(engine, 3)
    verified = session.read([2, 0], some_texts(2, 5), [2, 5])
    assert len(verified) == 2
    for logits, shape in (
        (engine.logits(some_tokens(4)), (4, V)),
        (verified[0], (2, V)),
        (verified[1], (5, V)),
        (session.prefill([0, 1, 2], some_texts(3, 4, 4)), (3, V)),
        (session.decode([1, 2], some_tokens(2)), (2, V)),
    ):
        assert type(logits) is np.ndarray
        assert logits.dtype == HOST_DTYPES.get(kind[1], np.float32)
        assert logits.shape == shape


def test_earlier_tokens_matter(engine: Engine) -> None:
    """Otherwise the other tests could not see a cache that is not read."""
    tokens = some_tokens(6)
    changed = tokens.copy()
    changed[0] = (changed[0] + 1) % V
    assert np.abs(engine.logits(tokens)[-1] - engine.logits(changed)[-1]).max() > 0.01


def test_cached_equals_uncached_to_the_last_position(engine: Engine, same: Same) -> None:
    tokens = some_tokens(C)
    uncached = engine.logits(tokens)
    session = started(engine, 1)
    same(session.prefill([0], [tokens[:3]])[0], uncached[2], "prefill")
    for position in range(3, C):
        assert session.lengths.tolist() == [position]
        same(session.decode([0], tokens[[position]])[0], uncached[position], f"position {position}")
    assert session.lengths.tolist() == [C]


def test_logits_after_every_token_of_a_text(engine: Engine, same: Same) -> None:
    session = started(engine, 2)
    session.prefill([1], [some_tokens(4)])
    texts = some_texts(7, 3)
    first, second = session.read([0, 1], texts, [7, 3])
    same(first, engine.logits(texts[0]), "a text from its beginning")
    same(second, engine.logits(np.concatenate([some_tokens(4), texts[1]]))[4:], "a text that goes on")
    assert session.lengths.tolist() == [7, 7]


def test_the_largest_logits_are_those_of_all(engine: Engine, kind: tuple[str, str]) -> None:
    for k in (1, 5, 2 * V):
        whole, largest = started(engine, 3), started(engine, 3)
        for lengths, last in (([7, 1, 5], [2, 1, 0]), ([1, 1, 1], [1, 1, 1]), ([3, 2, 1], [3, 0, 1])):
            texts = some_texts(*lengths)
            logits = whole.read([2, 0, 1], texts, last)
            tops = largest.read_top([2, 0, 1], texts, last, k)
            for rows, top in zip(logits, tops, strict=True):
                order = np.argsort(-rows, axis=1, kind="stable")[:, :k]
                bitwise(top.ids_nk, order, "ids")
                bitwise(top.logits_nk, np.take_along_axis(rows, order, axis=1), "logits")
                bitwise(top.log_sum_exp_n, whole.sampler.top(rows, 1).log_sum_exp_n, "log sum exp")
                exact = np.log(np.exp(rows.astype(np.float64)).sum(axis=1))
                TOLERANCES.get(kind[1], TOLERANCES["fp32"]).assert_close(top.log_sum_exp_n, exact)
        assert largest.lengths.tolist() == whole.lengths.tolist()


@pytest.mark.parametrize("chunks", [[1, 16], [16, 1], [5, 5, 7], [1] * 17, [2, 15]])
def test_chunked_prefill_equals_whole_prefill(engine: Engine, same: Same, chunks: list[int]) -> None:
    tokens = some_tokens(17)
    whole, chunked = started(engine, 1), started(engine, 1)
    expected = whole.prefill([0], [tokens])
    for chunk in np.split(tokens, np.cumsum(chunks)[:-1]):
        logits = chunked.prefill([0], [chunk])
    same(logits, expected, "after the prefill")
    same(chunked.decode([0], tokens[:1]), whole.decode([0], tokens[:1]), "one token later")


# --- Slots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[7] * 5, [3, 9, 1, 9, 4]], ids=["of one length", "ragged"])
@pytest.mark.parametrize("slots", [[0, 1, 2, 3, 4], [5, 1, 3, 0, 4]], ids=["side by side", "scattered"])
def test_a_text_in_a_batch_equals_that_text_alone(
    engine: Engine, same: Same, lengths: list[int], slots: list[int]
) -> None:
    texts, following = some_texts(*lengths), [some_tokens(4, seed=9 + i) for i in range(5)]
    together = started(engine, 6)
    logits = together.prefill(slots, texts)
    for step in range(4):
        for text, row in zip(texts, logits, strict=True):
            same(row, alone(engine, text), f"{len(text)} tokens, step {step}")
        logits = together.decode(slots, np.array([tokens[step] for tokens in following]))
        texts = [np.append(text, tokens[step]) for text, tokens in zip(texts, following, strict=True)]
    expected = np.zeros(6, dtype=int)
    expected[slots] = [length + 4 for length in lengths]
    assert together.lengths.tolist() == expected.tolist()


def test_slots_that_are_not_named_stay_as_they_are(engine: Engine, same: Same) -> None:
    texts = some_texts(6, 2, 9)
    session = started(engine, 3)
    session.prefill([0, 1, 2], texts)
    for token in some_tokens(5):
        session.decode([1], token[None])
    assert session.lengths.tolist() == [6, 7, 9]
    for slot in (2, 0):
        text = np.append(texts[slot], 3)
        same(session.decode([slot], np.array([3]))[0], alone(engine, text), f"slot {slot}")


def test_a_copy_goes_on_as_its_source_and_for_itself(engine: Engine, same: Same) -> None:
    text = some_tokens(6)
    session = started(engine, 4)
    session.prefill([2, 0], [text, some_tokens(9, seed=1)])
    session.copy(2, 0)  # over a longer one
    session.copy(2, 3)
    session.copy(0, 1)  # of a copy
    assert session.lengths.tolist() == [6] * 4
    following = some_texts(3, 3, 3, 3)
    for step in range(3):
        logits = session.decode(range(4), np.array([tokens[step] for tokens in following]))
        for slot, tokens in enumerate(following):
            whole = np.concatenate([text, tokens[: step + 1]])
            same(logits[slot], alone(engine, whole), f"slot {slot}, step {step}")
    session.copy(3, 3)
    assert session.lengths.tolist() == [9] * 4


def test_what_was_cut_off_is_forgotten(engine: Engine, same: Same) -> None:
    text = some_tokens(8)
    session = started(engine, 2)
    session.prefill([0, 1], [np.append(text, some_tokens(9, seed=1)), text])
    session.truncate(0, 8)
    assert session.lengths.tolist() == [8, 8]
    session.truncate(0, 8)  # nothing
    session.truncate(1, 5)
    for slot, kept in ((0, 8), (1, 5)):
        whole = np.append(text[:kept], 7)
        same(session.decode([slot], np.array([7]))[0], alone(engine, whole), f"slot {slot}")


def test_a_slot_that_was_freed_takes_another_text(engine: Engine, same: Same) -> None:
    session = started(engine, 2, capacity=9)
    session.prefill([0, 1], some_texts(9, 4))
    session.truncate(0, 0)
    assert session.lengths.tolist() == [0, 4]
    text = some_tokens(5, seed=3)
    same(session.prefill([0], [text])[0], alone(engine, text), "the next text")


def test_sessions_do_not_see_each_other(engine: Engine, same: Same) -> None:
    one, other = some_texts(5, 5)
    first, second = started(engine, 1), started(engine, 1)
    first.prefill([0], [one])
    second.prefill([0], [other])
    same(first.decode([0], other[:1])[0], alone(engine, np.append(one, other[0])), "the first")


def test_tokens_past_the_capacity_are_refused_with_the_numbers(engine: Engine) -> None:
    session = started(engine, 2, capacity=4)
    session.prefill([0], [some_tokens(3)])
    with pytest.raises(ContextLengthError, match=r"^5 tokens .* 4[^\n]*$"):
        session.prefill([1, 0], some_texts(1, 2))
    with pytest.raises(ContextLengthError, match=r"^5 tokens .* 4[^\n]*$"):
        session.read([1, 0], some_texts(1, 2), [1, 2])
    assert session.lengths.tolist() == [3, 0], "a call that raises changes nothing"
    session.decode([1, 0], some_tokens(2))
    assert session.lengths.tolist() == [4, 1]
    with pytest.raises(ContextLengthError, match=r"^5 tokens .* 4[^\n]*$"):
        session.decode([1, 0], some_tokens(2))
    with pytest.raises(ContextLengthError, match=rf"^[^\n]*{C + 1} tokens[^\n]* {C}"):
        started(engine, 1, capacity=C + 1)
    with pytest.raises(ContextLengthError, match=rf"^{C + 1} tokens[^\n]* {C}"):
        engine.logits(some_tokens(C + 1))


# --- Anything at all, in any order ------------------------------------------------------------------------------------


def check_a_random_session(engine: Engine, seed: int, same: Same) -> None:
    """Whatever was done to the slots before, logits are those of the tokens in a slot, read at once and alone."""
    choose = np.random.default_rng(seed)
    slots = 4
    session = engine.start(slots=slots, capacity=C)
    held = [np.empty(0, dtype=np.int64) for _ in range(slots)]

    def added(most: int) -> dict[int, np.ndarray]:
        """Some slots in any order, and what each is to read."""
        open_slots = [slot for slot in choose.permutation(slots) if len(held[slot]) < C]
        open_slots = open_slots[: choose.integers(1, slots + 1)]
        counts = [choose.integers(1, 1 + min(most, C - len(held[slot]))) for slot in open_slots]
        return {
            int(slot): choose.integers(0, V, count) for slot, count in zip(open_slots, counts, strict=True)
        }

    for step in range(40):
        match choose.choice(["prefill", "decode", "read", "truncate", "copy"]):
            case "truncate":
                slot = int(choose.integers(slots))
                length = int(choose.integers(len(held[slot]) + 1))
                session.truncate(slot, length)
                held[slot] = held[slot][:length]
                continue
            case "copy":
                source, target = choose.integers(slots, size=2).tolist()
                session.copy(source, target)
                held[target] = held[source]
                continue
            case action:
                texts = added(1 if action == "decode" else 6)
        if not texts:
            continue
        for slot, text in texts.items():
            held[slot] = np.append(held[slot], text)
        if action == "decode":
            logits = list(session.decode(list(texts), np.concatenate(list(texts.values())))[:, None])
        elif action == "prefill":
            logits = list(session.prefill(list(texts), list(texts.values()))[:, None])
        else:
            last = [int(choose.integers(len(text) + 1)) for text in texts.values()]
            logits = session.read(list(texts), list(texts.values()), last)
            assert [len(rows) for rows in logits] == last
        for slot, rows in zip(texts, logits, strict=True):
            (expected,) = engine.start(slots=1, capacity=C).read([0], [held[slot]], [len(held[slot])])
            same(
                rows,
                expected[len(expected) - len(rows) :],
                f"seed {seed}, step {step}, {action}, slot {slot}",
            )
        assert session.lengths.tolist() == [len(tokens) for tokens in held]


@pytest.mark.parametrize("seed", range(4))
def test_a_random_session_equals_its_texts_alone(engine: Engine, same: Same, seed: int) -> None:
    check_a_random_session(engine, seed, same)


# --- The promise of batch invariance ----------------------------------------------------------------------------------


def test_engines_promise_what_the_table_says(engine: Engine, kind: tuple[str, str]) -> None:
    assert engine.batch_invariant == (kind[0] in BATCH_INVARIANT)


def texts_of(engine: Engine, policy: SamplingPolicy, **settings: Any) -> list[Generation]:
    prompts = some_texts(3, 1, 8, 3, 12)
    written = write(
        engine, None, Task(prompts=prompts, policy=policy, max_new_tokens=40, slide=True, **settings)
    )
    return result_of(written)


@keeps_the_promise
@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_texts_are_the_same_beside_others_and_with_lookup(engine: Engine, temperature: float) -> None:
    policy = SamplingPolicy(temperature=temperature, seed=0)
    alone = texts_of(engine, policy, batch=1)
    assert texts_of(engine, policy, batch=3) == alone
    for batch in (1, 3):
        assert texts_of(engine, policy, batch=batch, lookup=True) == alone


class NumbersOfAll(ScriptedEngine):
    """Logits that depend on every token before; ``session`` may break the promise."""

    def __init__(self, session: type[ScriptedSession] = ScriptedSession) -> None:
        super().__init__(lambda tokens: 0, vocab_size=V, context=C)
        self._session = session

    def start(self, *, slots: int, capacity: int) -> ScriptedSession:
        return self._session(self, slots, capacity)

    def after(self, tokens: list[int]) -> np.ndarray:
        logits: np.ndarray = np.random.default_rng([*tokens, 1]).normal(size=V).astype(np.float32)
        return logits


def last_bit(logits: np.ndarray) -> np.ndarray:
    changed: np.ndarray = np.nextafter(logits, np.float32(np.inf))
    return changed


class OtherInABatch(ScriptedSession):
    def read(
        self, slots: Sequence[int], texts: Sequence[np.ndarray], last: Sequence[int]
    ) -> list[np.ndarray]:
        logits = super().read(slots, texts, last)
        return [last_bit(rows) for rows in logits] if len(slots) == 3 else logits


class OtherWhenDecoded(ScriptedSession):
    def decode(self, slots: Sequence[int], tokens: np.ndarray) -> np.ndarray:
        return last_bit(super().decode(slots, tokens))


class OtherInChunks(ScriptedSession):
    def prefill(self, slots: Sequence[int], texts: Sequence[np.ndarray]) -> np.ndarray:
        begun = self.lengths[list(slots)] > 0
        logits = super().prefill(slots, texts)
        return np.where(begun[:, None], last_bit(logits), logits)


class CopiesOneTokenLess(ScriptedSession):
    def copy(self, source: int, target: int) -> None:
        super().copy(source, target)
        if len(self._held[target]) > 1:
            self._held[target][0] = self._held[target][1]


class ForgetsNothing(ScriptedSession):
    def truncate(self, slot: int, length: int) -> None:
        before = self._held[slot][-1:]
        super().truncate(slot, length)
        if length:
            self._held[slot][-1:] = before


def check_the_promise(engine: Engine) -> None:
    for seed in range(4):
        check_a_random_session(engine, seed, bitwise)


def test_an_engine_that_keeps_the_promise_passes() -> None:
    check_the_promise(NumbersOfAll())


@pytest.mark.parametrize(
    "session", [OtherInABatch, OtherWhenDecoded, OtherInChunks, CopiesOneTokenLess, ForgetsNothing]
)
def test_an_engine_that_breaks_the_promise_is_caught(session: type[ScriptedSession]) -> None:
    with pytest.raises(AssertionError, match="not the same bits"):
        check_the_promise(NumbersOfAll(session))


# --- Scores -----------------------------------------------------------------------------------------------------------

# Tokens of a row, and how many of its last are predicted: one and many, the fewest and the most, in no order.
SCORED = [(2, 1), (C + 1, C), (5, 2), (C, 3), (4, 3), (5, 1)]


def test_scores_are_the_log_probabilities_of_the_last_tokens(engine: Engine, kind: tuple[str, str]) -> None:
    near = TOLERANCES.get(kind[1], TOLERANCES["fp32"])
    rows = [some_tokens(length, seed=length) for length, _ in SCORED]
    # Every other row ends in the token that the model finds most probable, the rest in another one.
    for number, row in enumerate(rows):
        row[-1] = (engine.logits(row[:-1])[-1].argmax() + number % 2) % V
    scores = engine.score(rows, [last for _, last in SCORED])
    for row, (_, last), scored in zip(rows, SCORED, scores, strict=True):
        logits = torch.from_numpy(engine.logits(row[:-1])[-last:])
        expected = logits.log_softmax(dim=1).numpy()[np.arange(last), row[-last:]]
        near.assert_close(scored.log_probs, expected, f"{len(row)} tokens, the last {last}")
        assert np.array_equal(scored.greedy, logits.argmax(dim=1).numpy() == row[-last:])
        assert scored.log_probs.dtype == HOST_DTYPES.get(kind[1], np.float32)
    assert [bool(scored.greedy[-1]) for scored in scores] == [True, False] * 3


def test_more_tokens_than_can_be_scored_are_refused(engine: Engine) -> None:
    with pytest.raises(ContextLengthError, match=rf"^{C + 1} tokens[^\n]* {C}"):
        engine.score([some_tokens(3), some_tokens(C + 2)], [1, 1])


def test_an_engine_says_what_it_is(engine: Engine, kind: tuple[str, str]) -> None:
    assert engine.config == CONFIG
    begins = {IN_GRAPHS: "torch on cpu in ", ON_CUDA: "torch on cuda:0 in "}.get(
        kind[0], f"{kind[0]} on cpu in "
    )
    assert engine.description.startswith(begins)


def test_an_engine_says_what_memory_a_session_takes(engine: Engine, kind: tuple[str, str]) -> None:
    plain = 2 * CONFIG.n_layer * CONFIG.n_embd * {"fp32": 4, "fp64": 8}.get(kind[1], 2)
    if kind[0] in BATCH_INVARIANT:
        # The native kernels' heads are filled up to whole vectors: here from 7 values.
        assert plain < engine.kv_bytes_per_token <= 4 * plain
    else:
        assert engine.kv_bytes_per_token == plain
    assert engine.free_memory_bytes() > 0
    session = engine.start(slots=3, capacity=C, pool=C)
    assert len(session.lengths) == (3 if engine.paged else 1)
