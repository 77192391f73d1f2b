"""How much of the logits a pass brings, and that nobody's text depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gptwo.infer import sampling
from gptwo.infer.batch import Batch
from gptwo.infer.candidates import MOST_CANDIDATES
from gptwo.infer.row import Row
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.schedule import Scheduler
from gptwo.infer.task import Generation, Task
from gptwo.kernels.top import Top
from scripted_engine import ScriptedEngine, ScriptedSession
from tolerance import FLOAT64

V = 90


class Numbers(ScriptedEngine):
    """Logits that depend on every token before; of one decimal place, so that equals are frequent."""

    def __init__(self, decimals: int = 6) -> None:
        super().__init__(lambda tokens: 0, vocab_size=V)
        self.calls: list[str] = []
        self._decimals = decimals

    def start(self, *, slots: int, capacity: int, pool: int | None = None) -> ScriptedSession:
        return Told(self, slots, capacity, pool)

    def after(self, tokens: list[int]) -> np.ndarray:
        logits = np.random.default_rng(tokens).normal(size=V).round(self._decimals)
        return logits.astype(np.float32)


class Told(ScriptedSession):
    """Says which calls there were."""

    def __init__(self, engine: Numbers, slots: int, capacity: int, pool: int | None) -> None:
        super().__init__(engine, slots, capacity, pool)
        self._calls = engine.calls

    def read(
        self, slots: Sequence[int], texts: Sequence[np.ndarray], last: Sequence[int]
    ) -> list[np.ndarray]:
        self._calls.append(f"read {len(slots)}")
        return super().read(slots, texts, last)

    def read_top(
        self, slots: Sequence[int], texts: Sequence[np.ndarray], last: Sequence[int], k: int
    ) -> list[Top]:
        self._calls.append(f"top {k} of {len(slots)}")
        return [self.sampler.top(logits, k) for logits in super().read(slots, texts, last)]


def written(engine: Numbers, *policies: SamplingPolicy, prompt: int = 3, **settings: Any) -> list[Generation]:
    """A text of each policy, side by side, each with a prompt of its own."""
    session = engine.start(slots=len(policies), capacity=100)
    batch = Batch(session, Scheduler(session), context=100)
    rows = []
    for number, policy in enumerate(policies):
        prompts = [np.arange(prompt + number)]
        task = Task(prompts=prompts, policy=policy, **({"max_new_tokens": 6} | settings))
        rows.append(Row(task, 0, None, 5))
        batch.scheduler.add(rows[-1])
    while len(batch):
        for outcome in batch.step():
            assert outcome.error is None
    return [row.generation() for row in rows]


GREEDY = SamplingPolicy(temperature=0.0)


@pytest.mark.parametrize(
    ("policies", "settings", "call"),
    [
        ([GREEDY], {}, "top 1 of 1"),
        ([GREEDY, GREEDY], {}, "top 1 of 2"),
        ([GREEDY], {"top_logprobs": 5}, "top 5 of 1"),
        ([GREEDY, SamplingPolicy(top_k=20)], {}, "top 21 of 2"),
        ([SamplingPolicy(top_k=MOST_CANDIDATES - 1)], {"top_logprobs": 5}, f"top {MOST_CANDIDATES} of 1"),
        ([SamplingPolicy(top_k=MOST_CANDIDATES)], {}, "read 1"),
        ([GREEDY], {"top_logprobs": MOST_CANDIDATES + 1}, "read 1"),
        ([GREEDY, SamplingPolicy(top_k=20), SamplingPolicy()], {}, "read 3"),
        ([SamplingPolicy(temperature=0.0, repetition_penalty=1.5)], {}, "read 1"),
    ],
    ids=str,
)
def test_a_pass_brings_no_more_than_its_rows_need(
    policies: list[SamplingPolicy], settings: dict[str, Any], call: str
) -> None:
    engine = Numbers()
    written(engine, *policies, **settings)
    assert set(engine.calls) == {call}


@pytest.mark.parametrize("top_logprobs", [0, 3])
@pytest.mark.parametrize("decimals", [6, 1, 0])
def test_a_text_is_the_same_whatever_the_pass_brings(decimals: int, top_logprobs: int) -> None:
    """With one decimal place many borders fall among equals, with none all do."""
    again = 0
    for policy in (GREEDY, SamplingPolicy(top_k=1), SamplingPolicy(top_k=7, top_p=0.9, temperature=0.8)):
        settings: dict[str, Any] = {"top_logprobs": top_logprobs, "max_new_tokens": 20}
        engine = Numbers(decimals)
        (alone,) = written(engine, policy, **settings)
        again += engine.calls.count("read 1")
        for company in (SamplingPolicy(), GREEDY, SamplingPolicy(top_k=50)):
            assert written(Numbers(decimals), policy, company, **settings)[0] == alone
        tokens = list(range(3))
        for step, (token, logprob) in enumerate(zip(alone.tokens, alone.logprobs, strict=True)):
            logits = engine.after(tokens)
            assert token == sampling.choose(
                logits, np.array(tokens), policy, prompt_tokens=3, seed=5, step=step
            )
            FLOAT64.assert_close(logprob, sampling.log_probabilities(logits[None], np.array([token]))[0])
            tokens.append(token)
    assert (again > 0) == (decimals < 6), "how often equals at the border made a pass be read again"


def test_what_is_reported_is_the_same_whatever_the_pass_brings() -> None:
    def reported(*policies: SamplingPolicy) -> list[Any]:
        engine = Numbers()
        session = engine.start(slots=2, capacity=50)
        batch = Batch(session, Scheduler(session), context=50)
        rows = []
        for policy in policies:
            task = Task(prompts=[np.arange(4)], policy=policy, max_new_tokens=5, top_logprobs=4)
            rows.append(Row(task, 0, None, 1))
            batch.scheduler.add(rows[-1])
        while len(batch):
            batch.step()
        return rows[0].new

    policy = SamplingPolicy(top_k=9)
    tokens = reported(policy)
    assert tokens == reported(policy, replace(policy, top_k=None))
    for token in tokens:
        assert [logprob for _, logprob in token.top] == sorted((p for _, p in token.top), reverse=True)
        assert len(token.top) == 4
