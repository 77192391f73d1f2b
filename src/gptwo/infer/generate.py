"""The loop that writes: logits to a token, the token to text, until each row ends. No torch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from gptwo.base.errors import CheckpointError, ConfigError
from gptwo.infer import sampling
from gptwo.infer.engine import Engine, Tokens
from gptwo.infer.prompt import require_room
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.stop import StopMatcher
from gptwo.tokenizer.stream import TextStream
from gptwo.tokenizer.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]
_NO_TOKENIZER = "the model folder has no tokenizer, so there is no text; read the tokens"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What was written after a prompt.

    text            the new text, without the stop string and ``<|endoftext|>``; "" when the model has no tokenizer
    tokens          the new ids, up to and with the one that ended the text
    logprobs        natural-log probability of each new id under the model itself: temperature 1, no penalty, no filter
    finish_reason   "stop": ``<|endoftext|>`` or a stop string · "length": max_new_tokens, or the context is full
    seed            what to pass as ``seed`` to get this again
    prompt_tokens   ids that the model was given
    notice          one line for the user when something was not as they may expect, else None
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    seed: int
    prompt_tokens: int
    notice: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types, under their own names."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One prompt to go on from, ``num`` times, and how. Row i draws with seed + i.

    Raises ``ConfigError`` for settings that cannot be. Without a tokenizer there is no text, and no stop string in it.
    """

    prompt: Tokens
    policy: SamplingPolicy
    max_new_tokens: int
    num: int = 1
    stop: Sequence[str] = ()
    slide: bool = False

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name}={value!r} is not possible; expected a whole number of at least 1")
        StopMatcher(self.stop)
        if self.policy.seed is not None:
            replace(self.policy, seed=self.policy.seed + self.num - 1)  # the last row's must be possible too


class _Row:
    """One text being written."""

    def __init__(self, task: Task, tokenizer: Tokenizer | None, seed: int) -> None:
        self.seed = seed
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason: FinishReason | None = None
        self._policy = task.policy
        self._prompt = task.prompt
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer) if tokenizer is not None else None
        self._matcher = StopMatcher(task.stop)
        self._pieces: list[str] = []
        self.notice = _NO_TOKENIZER if tokenizer is None else None

    def context(self) -> Tokens:
        """The prompt and all that was written after it."""
        return np.concatenate([self._prompt, np.array(self.tokens, dtype=np.int64)])

    def step(self, logits: np.ndarray[Any, Any]) -> str:
        """Draw the next token; return the text that is final now, and set ``finish_reason`` when it ends here."""
        if not np.isfinite(logits.max()):
            raise CheckpointError(
                f"the logits of new token {len(self.tokens) + 1} are not numbers; expected finite ones; "
                "use --dtype fp32, and if they are so still, the weights are damaged: take another checkpoint"
            )
        drawable = logits
        if self._tokenizer is not None and self._tokenizer.vocab_size < len(logits):
            # Rows of a padded embedding have no text, so they are never drawn.
            drawable = logits.copy()
            drawable[self._tokenizer.vocab_size :] = -np.inf
        token = sampling.choose(drawable, self.context(), self._policy, seed=self.seed, step=len(self.tokens))
        self.tokens.append(token)
        self.logprobs.append(float(sampling.log_probabilities(logits[None], np.array([token]))[0]))
        if self._tokenizer is None or self._text is None:
            return ""
        if token == self._tokenizer.eot_id:
            return self.finish("stop")
        piece = self._matcher.push(self._text.push(token))
        self._pieces.append(piece)
        if self._matcher.stopped:
            self.finish_reason = "stop"
        return piece

    def finish(self, reason: FinishReason) -> str:
        """End here; return the text that was held back for what could have followed."""
        rest = self._matcher.push(self._text.finish()) if self._text is not None else ""
        rest += self._matcher.finish()
        self.finish_reason = "stop" if self._matcher.stopped else reason
        self._pieces.append(rest)
        return rest

    def generation(self) -> Generation:
        """The row after it has ended."""
        assert self.finish_reason is not None
        return Generation(
            text="".join(self._pieces),
            tokens=self.tokens,
            logprobs=self.logprobs,
            finish_reason=self.finish_reason,
            seed=self.seed,
            prompt_tokens=len(self._prompt),
            notice=self.notice,
        )


def write(
    engine: Engine, tokenizer: Tokenizer | None, task: Task
) -> Generator[tuple[int, str], None, list[Generation]]:
    """Run the task: yields (row, new final text) as it comes, and returns a ``Generation`` for every row.

    The prompt runs once, then all rows together; a row that has ended costs nothing more. When the context C is full
    a row ends with "length", or with ``slide`` goes on from its last ⌈C/2⌉ tokens, whose keys and values are computed
    anew because their positions change. The same seed gives the same text on every engine and beside any other rows,
    as far as the logits agree. Raises ``ContextLengthError`` for a prompt longer than C, before the first token.
    """
    context = engine.config.context
    require_room(len(task.prompt), context, "the prompt")
    first_seed = task.policy.seed if task.policy.seed is not None else sampling.fresh_seed()
    rows = [_Row(task, tokenizer, first_seed + i) for i in range(task.num)]

    # The last token drawn is never fed back.
    session = engine.start(rows=1, capacity=min(context, len(task.prompt) + task.max_new_tokens - 1))
    logits_BV = np.repeat(session.prefill(task.prompt[None]), task.num, axis=0)
    if task.num > 1:
        session.select([0] * task.num)
    live = list(range(task.num))
    for count in range(1, task.max_new_tokens + 1):
        for i, logits_V in zip(live, logits_BV, strict=True):
            yield i, rows[i].step(logits_V)
        going = [slot for slot, i in enumerate(live) if rows[i].finish_reason is None]
        if not going or count == task.max_new_tokens:
            break
        if len(going) < len(live):
            session.select(going)
            live = [live[slot] for slot in going]
        if session.length < context:
            logits_BV = session.decode(np.array([rows[i].tokens[-1] for i in live]))
            continue
        kept = (context + 1) // 2
        notice = (
            f"past the context of {context} tokens: when it was full, its last {kept} were read again"
            if task.slide
            else f"the context of {context} tokens is full after {count} of {task.max_new_tokens} new tokens; "
            "slide=True (--slide) goes on from its last half"
        )
        for i in live:
            rows[i].notice = notice
        if not task.slide:
            break
        session = engine.start(rows=len(live), capacity=context)
        logits_BV = session.prefill(np.stack([rows[i].context()[-kept:] for i in live]))
    for i in live:
        if rows[i].finish_reason is None:
            yield i, rows[i].finish("length")
    return [row.generation() for row in rows]
