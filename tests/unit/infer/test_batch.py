"""The batch without a model: what is scheduled, who gives up memory to whom, and that nobody's text depends on it."""

from __future__ import annotations

import numpy as np
import pytest

from gptwo.infer.batch import Batch
from gptwo.infer.row import Row
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.schedule import Scheduler
from gptwo.infer.task import Task
from gptwo.tokenizer import build_byte
from scripted_engine import ScriptedEngine

TOKENIZER = build_byte()


def count_up(tokens: list[int]) -> int:
    return (tokens[-1] + 1) % 256


def started(
    engine: ScriptedEngine, *, slots: int = 4, pool: int | None = None, **settings: int | None
) -> Batch:
    session = engine.start(slots=slots, capacity=1000, pool=pool)
    return Batch(session, Scheduler(session, **settings), context=1000)


def row(prompt: list[int], new: int = 5, **settings: object) -> Row:
    task = Task(
        prompts=[np.array(prompt)],
        policy=SamplingPolicy(temperature=0.0),
        max_new_tokens=new,
        **settings,  # type: ignore[arg-type]
    )
    return Row(task, 0, TOKENIZER, seed=0)


def run(batch: Batch) -> int:
    """To the end of all rows; how many passes it took."""
    passes = 0
    while len(batch):
        batch.step()
        passes += 1
        assert passes < 10_000
    return passes


def written(row: Row) -> list[int]:
    return [token.id for token in row.new]


def test_long_prompts_are_read_in_parts_beside_texts_that_write() -> None:
    engine = ScriptedEngine(count_up)
    batch = started(engine, chunk=3, chunk_alone=8)
    short, long = row([1], new=9), row([5] * 20 + [9], new=2)
    batch.scheduler.add(short)
    batch.step()
    batch.scheduler.add(long)
    run(batch)
    # The newcomer's parts take three tokens of every pass beside the other's one; alone they take eight.
    assert engine.passes == [[1], *[[1, 3]] * 7, [1, 1], [1]][: len(engine.passes)]
    assert engine.passes.count([1, 3]) == 7
    assert written(short) == list(range(2, 11))
    assert written(long) == [10, 11]


def test_a_prompt_alone_is_read_in_larger_parts() -> None:
    engine = ScriptedEngine(count_up)
    batch = started(engine, chunk=3, chunk_alone=8)
    batch.scheduler.add(row([5] * 20, new=1))
    run(batch)
    assert engine.passes == [[8], [8], [4]]


def test_prompts_share_the_tokens_of_a_pass_in_the_order_in_which_they_came() -> None:
    engine = ScriptedEngine(count_up)
    batch = started(engine, chunk_alone=8)
    for length in (5, 6, 7):
        batch.scheduler.add(row(list(range(length)), new=1))
    run(batch)
    assert engine.passes == [[5, 3], [3, 5], [2]]


def test_a_text_that_came_last_gives_its_memory_up_and_goes_on_as_if_nothing_had_been() -> None:
    engine = ScriptedEngine(count_up)
    batch = started(engine, pool=30)
    rows = [row([10 * i] * 8, new=12) for i in range(3)]
    for one in rows:
        batch.scheduler.add(one)
    run(batch)
    assert batch.scheduler.counts.preemptions > 0
    for i, one in enumerate(rows):
        assert written(one) == [10 * i + 1 + step for step in range(12)]
    assert rows[0].new[-1].logprob == rows[2].new[-1].logprob


def test_a_text_too_long_for_the_rest_of_the_memory_waits_and_nobody_overtakes_it() -> None:
    engine = ScriptedEngine(count_up)
    batch = started(engine, pool=30)
    rows = [row([1] * 20, new=5), row([2] * 20, new=1), row([3], new=1)]
    for one in rows:
        batch.scheduler.add(one)
    batch.step()
    assert [len(one.new) for one in rows] == [1, 0, 0]
    run(batch)
    assert [len(one.new) for one in rows] == [5, 1, 1]
    assert batch.scheduler.counts.preemptions == 0


def test_a_prompt_that_several_read_at_once_is_read_once() -> None:
    engine = ScriptedEngine(count_up)
    batch = started(engine, chunk_alone=8)
    rows = [row([4] * 12, new=3) for _ in range(3)]
    for one in rows:
        batch.scheduler.add(one)
    run(batch)
    assert engine.passes == [[8], [4], [1, 1, 1], [1, 1, 1]]
    assert [written(one) for one in rows] == [[5, 6, 7]] * 3


def test_when_the_one_that_reads_for_others_goes_they_read_for_themselves() -> None:
    engine = ScriptedEngine(count_up)
    batch = started(engine, chunk_alone=8)
    rows = [row([4] * 12, new=3) for _ in range(3)]
    for one in rows:
        batch.scheduler.add(one)
    batch.step()
    batch.scheduler.remove(rows[0])
    run(batch)
    assert [written(one) for one in rows] == [[], [5, 6, 7], [5, 6, 7]]


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_a_row_that_is_removed_leaves_nothing_behind(passes: int) -> None:
    engine = ScriptedEngine(count_up)
    batch = started(engine, slots=2, chunk=2, chunk_alone=2)
    rows = [row([i] * 3) for i in range(3)]
    for one in rows:
        batch.scheduler.add(one)
    for _ in range(passes):
        batch.step()
    for one in rows:
        batch.scheduler.remove(one)
        batch.scheduler.remove(one)
    assert len(batch) == 0
    assert batch.scheduler.session.use == 0
    assert batch.step() == []
    batch.scheduler.add(again := row([1]))
    run(batch)
    assert written(again) == [2, 3, 4, 5, 6]


def test_an_error_of_one_row_is_its_own() -> None:
    class Odd(ScriptedEngine):
        def after(self, tokens: list[int]) -> np.ndarray:
            logits = super().after(tokens)
            return np.full_like(logits, np.nan) if tokens[0] == 9 else logits

    batch = started(Odd(count_up))
    good, bad = row([1]), row([9])
    for one in (good, bad):
        batch.scheduler.add(one)
    outcomes = batch.step()
    assert [outcome.error is None for outcome in outcomes] == [True, False]
    assert "are not numbers" in str(outcomes[1].error)
    run(batch)
    assert written(good) == [2, 3, 4, 5, 6]


def test_probabilities_of_the_prompt_are_those_of_every_token_after_the_first() -> None:
    engine = ScriptedEngine(count_up)
    batch = started(engine, chunk_alone=3)
    one = row([1, 2, 3, 9, 10, 11, 12], new=2, prompt_logprobs=True, top_logprobs=2)
    batch.scheduler.add(one)
    batch.step()
    run(batch)
    first, *others = one.prompt
    assert first is None
    assert [token.id for token in others if token] == [2, 3, 9, 10, 11, 12]
    likely = [token is not None and token.logprob > -1e-6 for token in others]
    assert likely == [True, True, False, True, True, True]
    assert [token.top[0][0] for token in others if token] == [2, 3, 4, 10, 11, 12]
    assert [len(token.top) for token in (*others, *one.new) if token] == [2] * 8
    assert written(one) == [13, 14]


def test_probabilities_of_a_prompt_survive_a_text_that_is_put_out() -> None:
    engine = ScriptedEngine(count_up)
    batch = started(engine, pool=30, chunk=4, chunk_alone=4)
    first, second = row([1] * 8, new=15), row([1, 2, 3, 4, 5, 6, 7, 8], new=15, prompt_logprobs=True)
    for one in (first, second):
        batch.scheduler.add(one)
    run(batch)
    assert batch.scheduler.counts.preemptions > 0
    assert [token.id for token in second.prompt if token] == [2, 3, 4, 5, 6, 7, 8]
    assert written(second) == list(range(9, 24))


class Only:
    """Allows one token after another, and then nothing."""

    def __init__(self, tokens: list[int]) -> None:
        self.left = tokens

    @property
    def finished(self) -> bool:
        return not self.left

    def allowed(self) -> np.ndarray:
        return np.arange(257) == self.left[0]

    def accept(self, token: int) -> None:
        assert token == self.left[0]
        self.left = self.left[1:]


def test_a_constraint_is_kept_and_ends_the_text() -> None:
    batch = started(ScriptedEngine(count_up))
    one = row([1], new=9, constraint=lambda: Only([60, 61, 90]))
    batch.scheduler.add(one)
    run(batch)
    assert written(one) == [60, 61, 90]
    assert one.finish_reason == "stop"
    # The model's own, whatever was allowed.
    assert one.new[0].logprob < -50
    assert one.new[1].logprob > -1e-6


def test_the_end_of_text_is_ignored_where_that_is_asked() -> None:
    eot = TOKENIZER.eot_id
    assert eot is not None
    batch = started(ScriptedEngine(lambda tokens: eot if tokens[-1] == 3 else 3))
    ends, goes_on = row([1]), row([1], ignore_eos=True)
    for one in (ends, goes_on):
        batch.scheduler.add(one)
    run(batch)
    assert (written(ends), ends.finish_reason) == ([3, eot], "stop")
    assert (written(goes_on), goes_on.finish_reason) == ([3, eot, 3, eot, 3], "length")
    assert goes_on.generation().text == "\x03" * 3
