"""Many rows through an engine, in batches of a bounded size, and continuations of contexts as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gptwo.base.errors import DivergedError, TokenizerError
from gptwo.infer.engine import Engine, Scores, Tokens
from gptwo.infer.prompt import require_room

# Tokens that the model reads in one pass unless a number of rows is asked for: enough to keep the matrix products
# busy, and little enough that the activations of the largest size stay within a gigabyte.
_TOKENS_AT_ONCE = 8192


class Row(NamedTuple):
    """Tokens of which the last ``last`` are predicted."""

    tokens: Tokens
    last: int


class Continuation(NamedTuple):
    """Token ids whose probability after ``context`` is asked. Neither may be empty."""

    context: Sequence[int]
    ids: Sequence[int]


class Answer(NamedTuple):
    """log p of a whole continuation, whether each of its tokens was the most probable, whether its context was cut."""

    log_prob: float
    greedy: bool
    cut: bool


def score(engine: Engine, rows: Iterable[Row], *, batch: int | None = None) -> Iterator[Scores]:
    """The scores of every row, in order; ``batch`` rows in a pass, or as many as hold some thousand tokens.

    Rows of one pass are padded to the longest of them: give rows of like lengths one after another. Raises
    ``DivergedError`` when a log-probability is no finite number.
    """
    waiting: list[Row] = []
    longest = 0
    for row in rows:
        read = len(row.tokens) - 1  # the last one is only predicted
        longest = max(longest, read)
        full = len(waiting) == batch if batch else longest * (len(waiting) + 1) > _TOKENS_AT_ONCE
        if waiting and full:
            yield from _pass(engine, waiting)
            waiting, longest = [], read
        waiting.append(row)
    if waiting:
        yield from _pass(engine, waiting)


def _pass(engine: Engine, rows: list[Row]) -> list[Scores]:
    scores = engine.score([row.tokens for row in rows], [row.last for row in rows])
    if not all(np.isfinite(scored.log_probs).all() for scored in scores):
        raise DivergedError(
            "a log-probability of the model is no finite number; its weights are damaged, or overflow in this "
            "dtype: try --dtype fp32"
        )
    return scores


def encode_continuation(
    encode: Callable[[str], list[int]], context: str, continuation: str, *, first: int | None
) -> Continuation:
    """``continuation`` after ``context`` as ids: those that the whole text has beyond the context's own.

    Spaces that end the context go to the continuation, where tokens begin with them. An empty context is the token
    ``first`` (``<|endoftext|>``), unless the continuation begins with it. Source: lm-evaluation-harness,
    ``TemplateLM.loglikelihood``. Raises ``TokenizerError`` when nothing is left to predict, or to begin from.
    """
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    before = encode(stripped)
    ids = encode(stripped + continuation)
    if not before:
        if first is None:
            raise TokenizerError(
                f"nothing stands before {continuation[:40]!r}, and the tokenizer has no <|endoftext|> to begin with"
            )
        if ids[:1] != [first]:
            return _require_ids(Continuation([first], ids), continuation)
        return _require_ids(Continuation(ids[:1], ids[1:]), continuation)
    return _require_ids(Continuation(before, ids[len(before) :]), continuation)


def _require_ids(encoded: Continuation, text: str) -> Continuation:
    if not len(encoded.ids):
        raise TokenizerError(
            f"{text[:40]!r} has no tokens of its own after its context; expected some to predict"
        )
    return encoded


def score_continuations(
    engine: Engine,
    continuations: Sequence[Continuation],
    *,
    batch: int | None = None,
    on_scored: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """How probable each continuation is; in the order given, run from the longest to the shortest.

    A context loses its first tokens where both together are more than C + 1, the last being only predicted.
    ``on_scored`` is called with the number that are done. Raises ``ContextLengthError`` for a continuation of more
    than C tokens.
    """
    most = engine.config.context + 1
    for continuation in continuations:
        require_room(len(continuation.ids), most - 1, "a continuation")
    lengths = [min(len(context) + len(ids), most) for context, ids in continuations]
    order = sorted(range(len(continuations)), key=lambda i: -lengths[i])
    rows = (
        Row(np.array([*continuations[i].context, *continuations[i].ids][-most:]), len(continuations[i].ids))
        for i in order
    )
    answers: dict[int, Answer] = {}
    for i, scored in zip(order, score(engine, rows, batch=batch), strict=True):
        context, ids = continuations[i]
        answers[i] = Answer(
            log_prob=float(scored.log_probs.sum(dtype=np.float64)),
            greedy=bool(scored.greedy.all()),
            cut=len(context) + len(ids) > most,
        )
        on_scored(len(answers))
    return [answers[i] for i in range(len(continuations))]
