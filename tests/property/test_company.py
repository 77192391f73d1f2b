"""The same request gives the same bits whoever else is served: over texts that come and go on the native engine."""

from __future__ import annotations

import numpy as np
import pytest

from gptwo.config import GPT2Config
from gptwo.infer.batch import Batch
from gptwo.infer.engine import Engine
from gptwo.infer.engines import load_engine
from gptwo.infer.generate import result_of, write
from gptwo.infer.row import Row
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.schedule import Scheduler
from gptwo.infer.task import Task
from gptwo.kernels.library import instruction_sets
from random_checkpoint import write_random_checkpoint

pytestmark = pytest.mark.skipif(
    not instruction_sets(),
    reason="the native library was not built; install a C++ compiler, then gptwo again",
)

CONFIG = GPT2Config(n_layer=2, n_head=3, n_embd=48, context=250, vocab_size=301)
C, V = CONFIG.context, CONFIG.vocab_size


@pytest.fixture(scope="module", params=["fp32", "bf16", "int8", "int4"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = write_random_checkpoint(tmp_path_factory.mktemp("models") / "m", CONFIG)
    return load_engine(folder, engine="native", dtype=request.param, threads=2)


def some_tasks(choose: np.random.Generator) -> list[Task]:
    """Prompts of which many begin alike, and all kinds of settings."""
    beginnings = [choose.integers(0, V, C) for _ in range(3)]
    tasks = []
    for seed in range(14):
        prompt = np.concatenate(
            [
                beginnings[choose.integers(3)][: choose.integers(1, 150)],
                choose.integers(0, V, choose.integers(0, 20)),
            ]
        )
        policy = SamplingPolicy(
            temperature=float(choose.choice([0.0, 0.7, 1.0])),
            top_k=int(choose.integers(1, 50)) if choose.random() < 0.5 else None,
            frequency_penalty=float(choose.choice([0.0, 0.5])),
            seed=seed,
        )
        tasks.append(
            Task(
                prompts=[prompt],
                policy=policy,
                max_new_tokens=int(choose.integers(1, 80)),
                lookup=bool(choose.random() < 0.3),
                prompt_logprobs=bool(choose.random() < 0.3),
                top_logprobs=int(choose.integers(0, 3)),
            )
        )
    return tasks


@pytest.mark.parametrize("seed", range(2))
def test_texts_and_log_probabilities_are_the_same_bits_alone_and_among_others(
    engine: Engine, seed: int
) -> None:
    choose = np.random.default_rng(seed)
    tasks = some_tasks(choose)
    session = engine.start(slots=6, capacity=C, pool=500)
    batch = Batch(session, Scheduler(session, chunk=int(choose.integers(1, 70)), chunk_alone=100), context=C)
    rows = [Row(task, 0, None, task.policy.seed or 0) for task in tasks]
    coming = list(rows)
    while coming or len(batch):
        if coming and choose.random() < 0.2:
            batch.scheduler.add(coming.pop(0))
        for outcome in batch.step():
            assert outcome.error is None
    assert session.use == 0
    counts = batch.scheduler.counts
    assert counts.preemptions > 0
    assert counts.reused > 0
    for task, row in zip(tasks, rows, strict=True):
        (alone,) = result_of(write(engine, None, task))
        among = row.generation()
        assert among == alone  # ids, log-probabilities and why it ended
        if task.prompt_logprobs:
            lonely = Row(task, 0, None, 0)
            own = engine.start(slots=1, capacity=C)
            single = Batch(own, Scheduler(own), context=C)
            single.scheduler.add(lonely)
            single.step()
            assert row.prompt == lonely.prompt
