"""The loop that writes: all texts of a task, from beginning to end. No torch."""

from __future__ import annotations

from collections.abc import Generator

from gptwo.base.errors import ConfigError
from gptwo.infer import sampling
from gptwo.infer.batch import Batch
from gptwo.infer.engine import Engine
from gptwo.infer.lookup import require_lookup
from gptwo.infer.prompt import require_room
from gptwo.infer.row import Row
from gptwo.infer.schedule import Scheduler
from gptwo.infer.task import Generation, Task
from gptwo.tokenizer.tokenizer import Tokenizer


def require_task(engine: Engine, task: Task) -> None:
    """Whether this engine can do that.

    Raises ``ContextLengthError`` for a prompt longer than C, and ``ConfigError`` for a bias of an id that the model
    does not have and for ``lookup`` on an engine that cannot keep its promise.
    """
    for prompt in task.prompts:
        require_room(len(prompt), engine.config.context, "the prompt")
    for token in task.policy.logit_bias or ():
        if token >= engine.config.vocab_size:
            raise ConfigError(
                f"logit_bias has id {token}; expected ids of the model, 0 to {engine.config.vocab_size - 1}"
            )
    if task.lookup:
        require_lookup(engine)


def write(
    engine: Engine, tokenizer: Tokenizer | None, task: Task
) -> Generator[tuple[int, str], None, list[Generation]]:
    """Run the task: yields (number of the text, new final text) for every token, and returns all ``Generation``s.

    As many texts as the batch has slots run side by side, each as far as it is; a slot whose text has ended is given to
    the next prompt. A prompt that several texts begin with at once is read once. When the context C is full a text ends
    with "length", or with ``slide`` goes on from its last ⌈C/2⌉ tokens, whose keys and values are computed anew
    because their positions change. The same seed gives the same text on every engine and beside any others, as far as
    the logits agree. Errors as ``require_task``, before the first token.
    """
    require_task(engine, task)
    return _written(engine, tokenizer, task)


def result_of(written: Generator[tuple[int, str], None, list[Generation]]) -> list[Generation]:
    """What ``write`` returns in the end, for those who do not wait for pieces."""
    while True:
        try:
            next(written)
        except StopIteration as end:
            generations: list[Generation] = end.value
            return generations


def _written(
    engine: Engine, tokenizer: Tokenizer | None, task: Task
) -> Generator[tuple[int, str], None, list[Generation]]:
    context = engine.config.context
    first_seed = task.policy.seed if task.policy.seed is not None else sampling.fresh_seed()
    count = len(task.prompts)
    slots = min(task.batch or count, count)
    session = engine.start(
        slots=slots,
        # The last token drawn is never read.
        capacity=min(context, max(map(len, task.prompts)) + task.max_new_tokens - 1),
    )
    batch = Batch(session, Scheduler(session), context=context)
    done: dict[int, Generation] = {}
    begun = 0
    while len(done) < count:
        while begun < count and len(batch) < slots:
            batch.scheduler.add(Row(task, begun, tokenizer, first_seed + begun))
            begun += 1
        for row, _, pieces, error in batch.step():
            for piece in pieces:
                yield row.number, piece
            if error is not None:
                raise error
            if row.finish_reason is not None:
                done[row.number] = row.generation()
    return [done[number] for number in range(count)]
