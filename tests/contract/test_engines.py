"""What every engine must do, over the table of engines: a new one is tested by being registered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gptwo.base.errors import ContextLengthError
from gptwo.config import GPT2Config
from gptwo.infer.engine import ENGINES, Engine, Session, load_engine
from gptwo.model import equations
from random_checkpoint import random_weights, write_random_checkpoint
from tolerance import Tolerance

# Odd sizes: nothing is a multiple of a vector's width.
CONFIG = GPT2Config(n_layer=3, n_head=3, n_embd=21, context=19, vocab_size=37, n_inner=50, dropout=0.1)
C, V = CONFIG.context, CONFIG.vocab_size

TOLERANCES = {
    "fp32": Tolerance(atol=5e-5, rtol=1e-5, why="fp32 over 3 layers, logits near 10; sums in another order"),
    "fp64": Tolerance(atol=1e-12, rtol=1e-12, why="fp64, logits near 10; sums in another order"),
}
HOST_DTYPES = {"fp32": np.float32, "fp64": np.float64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("models") / "odd", CONFIG)


@pytest.fixture(scope="module", params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=TOLERANCES)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(folder: Path, engine_name: str, dtype: str) -> Engine:
    return load_engine(folder, engine=engine_name, device="cpu", dtype=dtype)


@pytest.fixture
def near(dtype: str) -> Tolerance:
    return TOLERANCES[dtype]


def some_tokens(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, shape)


def started(engine: Engine, rows: int, capacity: int = C) -> Session:
    return engine.start(rows=rows, capacity=capacity)


def test_logits_are_those_of_the_papers_equations(engine: Engine, near: Tolerance) -> None:
    weights = equations.paper_weights(random_weights(CONFIG, seed=0), CONFIG.n_layer, CONFIG.n_head)
    for T in (1, 2, C):
        tokens = some_tokens(T)
        expected = equations.forward(torch.from_numpy(tokens), weights, CONFIG.layer_norm_epsilon)
        near.assert_close(engine.logits(tokens), expected, f"T={T}")


def test_logits_are_numpy_arrays_in_host_memory(engine: Engine, dtype: str) -> None:
    session = started(engine, 2)
    for logits, shape in (
        (engine.logits(some_tokens(4)), (4, V)),
        (session.prefill(some_tokens(2, 4)), (2, V)),
        (session.decode(some_tokens(2)), (2, V)),
    ):
        assert type(logits) is np.ndarray
        assert logits.dtype == HOST_DTYPES[dtype]
        assert logits.shape == shape


def test_cached_equals_uncached_to_the_last_position(engine: Engine, near: Tolerance) -> None:
    tokens = some_tokens(C)
    uncached = engine.logits(tokens)
    session = started(engine, 1)
    near.assert_close(session.prefill(tokens[None, :3])[0], uncached[2], "prefill")
    for position in range(3, C):
        assert session.length == position
        near.assert_close(session.decode(tokens[[position]])[0], uncached[position], f"position {position}")
    assert session.length == C


def test_earlier_tokens_matter(engine: Engine) -> None:
    """Otherwise the other tests could not see a cache that is not read."""
    tokens = some_tokens(6)
    changed = tokens.copy()
    changed[0] = (changed[0] + 1) % V
    assert np.abs(engine.logits(tokens)[-1] - engine.logits(changed)[-1]).max() > 0.01


@pytest.mark.parametrize("chunks", [[1, 16], [16, 1], [5, 5, 7], [1] * 17, [2, 15]])
def test_chunked_prefill_equals_whole_prefill(engine: Engine, near: Tolerance, chunks: list[int]) -> None:
    tokens = some_tokens(2, 17)
    whole, chunked = started(engine, 2), started(engine, 2)
    expected = whole.prefill(tokens)
    for chunk in np.split(tokens, np.cumsum(chunks)[:-1], axis=1):
        logits = chunked.prefill(chunk)
    near.assert_close(logits, expected, "after the prefill")
    near.assert_close(chunked.decode(tokens[:, 0]), whole.decode(tokens[:, 0]), "one token later")


def test_a_row_in_a_batch_equals_that_row_alone(engine: Engine, near: Tolerance) -> None:
    tokens, following = some_tokens(5, 7), some_tokens(5, 4, seed=1)
    together = started(engine, 5)
    in_batch = [together.prefill(tokens), *(together.decode(following[:, i]) for i in range(4))]
    for row in range(5):
        alone = started(engine, 1)
        near.assert_close(in_batch[0][row], alone.prefill(tokens[[row]])[0], f"row {row}")
        for i in range(4):
            near.assert_close(in_batch[i + 1][row], alone.decode(following[[row], i])[0], f"row {row}")


@pytest.mark.parametrize("rows", [[0, 0, 0, 0], [2, 0], [1], [2, 1, 0, 1]])
def test_selected_rows_go_on_as_those_they_were(engine: Engine, near: Tolerance, rows: list[int]) -> None:
    tokens, following = some_tokens(3, 6), some_tokens(len(rows), 3, seed=1)
    session = started(engine, 3)
    session.prefill(tokens)
    session.select(rows)
    assert session.length == 6
    for i in range(3):
        logits = session.decode(following[:, i])
        for slot, row in enumerate(rows):
            whole = np.concatenate([tokens[row], following[slot, : i + 1]])
            near.assert_close(logits[slot], engine.logits(whole)[-1], f"slot {slot}")


def test_sessions_do_not_see_each_other(engine: Engine, near: Tolerance) -> None:
    tokens = some_tokens(2, 5)
    first, second = started(engine, 1), started(engine, 1)
    first.prefill(tokens[:1])
    second.prefill(tokens[1:])
    near.assert_close(first.decode(tokens[1, :1])[0], engine.logits(np.append(tokens[0], tokens[1, 0]))[-1])


def test_tokens_past_the_capacity_are_refused_with_the_numbers(engine: Engine) -> None:
    session = started(engine, 1, capacity=4)
    session.prefill(some_tokens(1, 3))
    with pytest.raises(ContextLengthError, match=r"^5 tokens .* 4[^\n]*$"):
        session.prefill(some_tokens(1, 2))
    session.decode(some_tokens(1))
    with pytest.raises(ContextLengthError, match=r"^5 tokens .* 4[^\n]*$"):
        session.decode(some_tokens(1))
    with pytest.raises(ContextLengthError, match=rf"^[^\n]*{C + 1} tokens[^\n]* {C}"):
        started(engine, 1, capacity=C + 1)
    with pytest.raises(ContextLengthError, match=rf"^{C + 1} tokens[^\n]* {C}"):
        engine.logits(some_tokens(C + 1))


# Tokens of a row, and how many of its last are predicted: one and many, the fewest and the most, in no order.
SCORED = [(2, 1), (C + 1, C), (5, 2), (C, 3), (4, 3), (5, 1)]


def test_scores_are_the_log_probabilities_of_the_last_tokens(
    engine: Engine, near: Tolerance, dtype: str
) -> None:
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
        assert scored.log_probs.dtype == HOST_DTYPES[dtype]
    assert [bool(scored.greedy[-1]) for scored in scores] == [True, False] * 3


def test_more_tokens_than_can_be_scored_are_refused(engine: Engine) -> None:
    with pytest.raises(ContextLengthError, match=rf"^{C + 1} tokens[^\n]* {C}"):
        engine.score([some_tokens(3), some_tokens(C + 2)], [1, 1])


def test_an_engine_says_what_it_is(engine: Engine, engine_name: str) -> None:
    assert engine.config == CONFIG
    assert engine.description.startswith(f"{engine_name} on cpu in ")
