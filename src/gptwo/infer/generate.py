"""The loop that writes: slots of a session are given to texts, read, and given on when a text ends. No torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from gptwo.base.errors import ConfigError
from gptwo.infer import sampling
from gptwo.infer.engine import Engine, Session
from gptwo.infer.lookup import require_lookup
from gptwo.infer.prompt import require_room
from gptwo.infer.row import Row
from gptwo.infer.task import Generation, Task
from gptwo.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float


def write(
    engine: Engine, tokenizer: Tokenizer | None, task: Task
) -> Generator[tuple[int, str], None, list[Generation]]:
    """Run the task: yields (number of the text, new final text) for every token, and returns all ``Generation``s.

    As many texts as the batch has slots run side by side, each as far as it is; a slot whose text has ended is given to
    the next prompt. A prompt that several texts begin with at once is read once. When the context C is full a text ends
    with "length", or with ``slide`` goes on from its last ⌈C/2⌉ tokens, whose keys and values are computed anew
    because their positions change. The same seed gives the same text on every engine and beside any others, as far as
    the logits agree.

    Before the first token raises ``ContextLengthError`` for a prompt longer than C, and ``ConfigError`` for a bias of
    an id that the model does not have and for ``lookup`` on an engine that cannot keep its promise.
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
    session = engine.start(
        slots=min(task.batch or count, count),
        # The last token drawn is never read.
        capacity=min(context, max(map(len, task.prompts)) + task.max_new_tokens - 1),
    )
    waiting = deque(range(count))
    done: dict[int, Generation] = {}
    live: dict[int, Row] = {}
    free = list(range(len(session.lengths)))
    while waiting or live:
        while waiting and free:
            number = waiting.popleft()
            live[free.pop(0)] = Row(task, number, tokenizer, first_seed + number)
        for slot, logits_TV in _read(session, live).items():
            row = live[slot]
            before = row.written
            for piece in row.take(logits_TV):
                yield row.number, piece
            # The slot has read the guesses too, and those that were wrong are not part of the text.
            held = int(session.lengths[slot]) - (len(row.guess) - (row.written - before - 1))
            if row.finish_reason is None and held == context and not task.slide:
                yield row.number, row.end_full(context)
            if row.finish_reason is not None:
                session.truncate(slot, 0)
                done[row.number] = live.pop(slot).generation()
                free.append(slot)
            elif held == context:
                session.truncate(slot, 0)
                row.slide(context)
            else:
                session.truncate(slot, held)
                row.go_on(context - held)
    return [done[number] for number in range(count)]


def _read(session: Session, live: Mapping[int, Row]) -> dict[int, Float[np.ndarray, "T V"]]:
    """Read to each slot what its row has unread; the logits after it, and after each guess in it, in order of slots."""
    texts = {slot: live[slot].unread for slot in sorted(live)}
    lengths = session.lengths
    # A text that several empty slots are to read is read once.
    readers: dict[bytes, int] = {}
    for slot, text in texts.items():
        if lengths[slot] == 0:
            readers.setdefault(text.tobytes(), slot)
    logits: dict[int, Float[np.ndarray, "T V"]] = {}
    if readers:
        begun = list(readers.values())
        logits_nV = session.prefill(begun, [texts[slot] for slot in begun])
        logits.update(zip(begun, logits_nV[:, None], strict=True))
        for slot, text in texts.items():
            if lengths[slot] == 0 and slot not in logits:
                reader = readers[text.tobytes()]
                session.copy(reader, slot)
                logits[slot] = logits[reader]
    going = [slot for slot in texts if slot not in logits]
    if any(len(texts[slot]) > 1 for slot in going):
        logits.update(zip(going, session.verify(going, [texts[slot] for slot in going]), strict=True))
    elif going:
        logits_nV = session.decode(going, np.concatenate([texts[slot] for slot in going]))
        logits.update(zip(going, logits_nV[:, None], strict=True))
    return {slot: logits[slot] for slot in texts}
