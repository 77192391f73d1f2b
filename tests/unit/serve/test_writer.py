"""The engine's thread: what is asked for comes back whole, goes when it is cancelled, and nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from gptwo.base.errors import ConfigError, ContextLengthError, QueueFullError, ServerClosingError
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.task import Task
from gptwo.serve.writer import Writer
from gptwo.serve.writing import Piece, TextFacts, Writing
from gptwo.tokenizer import build_byte
from scripted_engine import ScriptedEngine, ScriptedSession


class Model:
    """As much of a ``LanguageModel`` as the writer needs."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine
        self.tokenizer = build_byte()


class Facts(list[TextFacts]):
    def on_text(self, facts: TextFacts) -> None:
        self.append(facts)


class Gated(ScriptedEngine):
    """Each pass waits for ``gate``."""

    def __init__(self) -> None:
        super().__init__(count_up)
        self.gate = threading.Event()
        self.gate.set()

    def start(self, **arguments: Any) -> ScriptedSession:
        session = super().start(**arguments)
        read = session.read

        def gated(*arguments: Any) -> list[np.ndarray]:
            self.gate.wait()
            return read(*arguments)

        session.read = gated  # type: ignore[method-assign]
        return session


def count_up(tokens: list[int]) -> int:
    return (tokens[-1] + 1) % 256


def task(*prompts: list[int], new: int = 4, **settings: Any) -> Task:
    return Task(
        prompts=[np.array(prompt) for prompt in prompts],
        policy=SamplingPolicy(temperature=0.0),
        max_new_tokens=new,
        **settings,
    )


def with_writer(
    body: Callable[[Writer], Awaitable[None]], engine: ScriptedEngine | None = None, **settings: Any
) -> None:
    async def main() -> None:
        model = Model(engine or ScriptedEngine(count_up))
        settings_ = {"slots": 2, "cache_tokens": None, "queue": 3, **settings}
        writer = Writer(model, **settings_)  # type: ignore[arg-type]
        writer.start()
        try:
            await asyncio.wait_for(body(writer), 30)
        finally:
            if isinstance(engine, Gated):
                engine.gate.set()  # or a test that fails would wait for its pass
            await writer.close(0)
        assert not writer._thread.is_alive()

    asyncio.run(main())


async def collected(writing: Writing) -> list[Piece]:
    return [piece async for piece in writing]


def text(pieces: list[Piece], number: int = 0) -> str:
    return "".join(piece.text for piece in pieces if piece.number == number)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_texts_come_back_piece_by_piece_with_their_tokens() -> None:
    async def body(writer: Writer) -> None:
        pieces = await collected(writer.submit(task([65], [97, 98], top_logprobs=1)))
        assert text(pieces) == "BCDE"
        assert text(pieces, 1) == "cdef"
        assert [piece.finish_reason for piece in pieces if piece.number == 1] == [None] * 3 + ["length"]
        tokens = [token for piece in pieces if piece.number == 0 for token in piece.tokens]
        assert [token.id for token in tokens] == [66, 67, 68, 69]
        assert [token.top[0][0] for token in tokens] == [66, 67, 68, 69]
        assert all(piece.prompt == () for piece in pieces)

    with_writer(body)


def test_the_prompts_probabilities_come_with_the_first_piece_alone() -> None:
    async def body(writer: Writer) -> None:
        pieces = await collected(writer.submit(task([65, 66, 70], prompt_logprobs=True)))
        first, *others = pieces
        assert [token and token.id for token in first.prompt] == [None, 66, 70]
        assert all(piece.prompt == () for piece in others)

    with_writer(body)


def test_the_text_that_is_held_back_at_the_end_of_the_context_is_not_lost() -> None:
    engine = ScriptedEngine(count_up, context=6)

    async def body(writer: Writer) -> None:
        pieces = await collected(writer.submit(task([65], new=50, stop=["FGHI"])))
        assert text(pieces) == "BCDEFG"
        assert sum(len(piece.tokens) for piece in pieces) == 6
        assert pieces[-1].finish_reason == "length"

    with_writer(body, engine)


def test_more_than_slots_and_queue_is_refused_at_once_and_taken_later() -> None:
    engine = Gated()

    async def body(writer: Writer) -> None:
        engine.gate.clear()
        accepted = [writer.submit(task([65])) for _ in range(5)]
        with pytest.raises(QueueFullError, match="5 texts are being written or wait, and the server takes 5"):
            writer.submit(task([65]))
        with pytest.raises(ConfigError, match="6 texts are asked for at once; expected at most 5"):
            writer.submit(task(*[[65]] * 6))
        # One or two: the first pass may begin before the second text has come.
        await until(lambda: writer.stats.running > 0)
        assert writer.stats.running + writer.stats.waiting == 5
        engine.gate.set()
        for writing in accepted:
            assert text(await collected(writing)) == "BCDE"
        assert text(await collected(writer.submit(task([66])))) == "CDEF"

    with_writer(body, engine)


def test_what_cannot_be_is_refused_before_it_waits() -> None:
    async def body(writer: Writer) -> None:
        with pytest.raises(ContextLengthError):
            writer.submit(task([1] * 2000))
        assert text(await collected(writer.submit(task([65])))) == "BCDE"

    with_writer(body)


def test_a_cancelled_text_frees_its_slot_and_the_next_one_comes_in() -> None:
    facts = Facts()

    async def body(writer: Writer) -> None:
        endless = [writer.submit(task([65], new=900)) for _ in range(2)]
        await anext(endless[0])
        waiting = writer.submit(task([70]))
        endless[0].cancel()
        endless[0].cancel()
        assert text(await collected(waiting)) == "GHIJ"
        assert await collected(endless[0]) is not None  # ends
        endless[1].cancel()
        await until(lambda: writer.stats[:3] == (0, 0, 0.0))

    with_writer(body, observer=facts)
    assert sorted(fact.finish_reason for fact in facts) == ["abort", "abort", "length"]


def test_one_that_is_cancelled_before_it_began_never_begins() -> None:
    engine = Gated()

    async def body(writer: Writer) -> None:
        engine.gate.clear()
        writing = writer.submit(task([65]))
        writing.cancel()
        engine.gate.set()
        assert await collected(writing) == []
        await until(lambda: writer.stats.waiting == 0)
        assert text(await collected(writer.submit(task([65])))) == "BCDE"

    with_writer(body, engine)


def test_an_error_of_one_text_ends_its_task_and_no_other() -> None:
    class Odd(ScriptedEngine):
        def after(self, tokens: list[int]) -> np.ndarray:
            logits = super().after(tokens)
            return np.full_like(logits, np.nan) if tokens[:1] == [9] and len(tokens) > 2 else logits

    facts = Facts()

    async def body(writer: Writer) -> None:
        bad, good = writer.submit(task([9], [65], new=20)), writer.submit(task([97]))
        with pytest.raises(ValueError, match="are not numbers"):
            await collected(bad)
        assert text(await collected(good)) == "bcde"
        await until(lambda: writer.stats[:3] == (0, 0, 0.0))

    with_writer(body, Odd(count_up), observer=facts, slots=3)
    assert sorted(fact.finish_reason for fact in facts) == ["error", "error", "length"]


@pytest.mark.parametrize(("other", "end"), [([9, 2], "error"), ([65], "length")])
def test_texts_of_a_task_that_fail_or_end_in_one_pass_take_no_other_along(other: list[int], end: str) -> None:
    class Odd(ScriptedEngine):
        def after(self, tokens: list[int]) -> np.ndarray:
            logits = super().after(tokens)
            return np.full_like(logits, np.nan) if tokens[0] == 9 else logits

    facts = Facts()

    async def body(writer: Writer) -> None:
        good = writer.submit(task([97], new=20))
        bad = writer.submit(task([9, 1], other, new=1))
        with pytest.raises(ValueError, match="are not numbers"):
            await collected(bad)
        assert text(await collected(good)) == "bcdefghijklmnopqrstu"
        await until(lambda: writer.stats[:3] == (0, 0, 0.0))

    with_writer(body, Odd(count_up), observer=facts, slots=3)
    assert sorted(fact.finish_reason for fact in facts) == sorted(["error", end, "length"])


def test_a_pass_that_fails_loses_its_texts_and_the_server_goes_on() -> None:
    class Fails(ScriptedEngine):
        fails = False

        def start(self, **arguments: Any) -> ScriptedSession:
            assert not self.fails, "there is no memory for the keys and values of another session"
            return super().start(**arguments)

        def after(self, tokens: list[int]) -> np.ndarray:
            if self.fails:
                raise MemoryError("out of memory")
            return super().after(tokens)

    engine = Fails(count_up)

    async def body(writer: Writer) -> None:
        writing = writer.submit(task([65], new=900))
        await anext(writing)
        engine.fails = True
        with pytest.raises(MemoryError):
            await collected(writing)
        engine.fails = False
        assert text(await collected(writer.submit(task([65])))) == "BCDE"
        assert writer.stats.prefix_queries == 2

    with_writer(body, engine)


def test_closing_waits_for_those_who_run_and_refuses_others() -> None:
    engine = Gated()

    async def body(writer: Writer) -> None:
        engine.gate.clear()
        writing = writer.submit(task([65]))
        closing = asyncio.ensure_future(writer.close(20))
        await asyncio.sleep(0)
        with pytest.raises(ServerClosingError):
            writer.submit(task([65]))
        engine.gate.set()
        assert text(await collected(writing)) == "BCDE"
        await closing

    with_writer(body, engine)


def test_those_who_are_not_done_within_the_grace_time_hear_why() -> None:
    async def body(writer: Writer) -> None:
        writing = writer.submit(task([65], new=900))
        await anext(writing)
        await writer.close(0)
        with pytest.raises(ServerClosingError, match="went down before the text was done"):
            await collected(writing)

    with_writer(body, Gated())


def test_prompts_are_counted_once_and_times_add_up() -> None:
    facts = Facts()

    async def body(writer: Writer) -> None:
        prompt, other = np.array([65, 66]), np.array([70])
        writing = writer.submit(
            Task(prompts=[prompt, prompt, other], policy=SamplingPolicy(temperature=0.0), max_new_tokens=4)
        )
        await collected(writing)
        assert (writing.prompt_tokens, writing.cached_tokens) == (3, 0)
        assert writer.stats.prefix_queries == 3, "whose prompt another reads looks nothing up"

    with_writer(body, observer=facts)
    assert len(facts) == 3
    for fact in facts:
        assert fact.first_token_s == pytest.approx(fact.queue_s + fact.prefill_s)
        assert fact.end_to_end_s >= fact.first_token_s + fact.decode_s
        assert sum(fact.token_gaps_s) == pytest.approx(fact.decode_s)
        assert (len(fact.token_gaps_s), fact.generated_tokens) == (3, 4)
