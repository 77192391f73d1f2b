"""One text that is being written: from logits to its next token, and from its tokens to text. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo.base.errors import CheckpointError
from gptwo.infer import sampling
from gptwo.infer.engine import Tokens
from gptwo.infer.lookup import PromptLookup
from gptwo.infer.stop import StopMatcher
from gptwo.infer.task import FinishReason, Generation, Task
from gptwo.tokenizer.stream import TextStream
from gptwo.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float

_NO_TOKENIZER = "the model folder has no tokenizer, so there is no text; read the tokens"


class Row:
    """Text ``number`` of a task. Somebody reads ``unread`` to a model, and the row takes the logits that follow.

    ``unread`` is the prompt at first, then the newest token with the guesses of those after it, ``guess``.
    """

    def __init__(self, task: Task, number: int, tokenizer: Tokenizer | None, seed: int) -> None:
        self.number = number
        self.seed = seed
        self.logprobs: list[float] = []
        self.finish_reason: FinishReason | None = None
        self.notice = _NO_TOKENIZER if tokenizer is None else None
        self.unread = task.prompts[number]
        self.guess: list[int] = []
        self._prompt_tokens = len(self.unread)
        # The first _count of these; a full array is replaced by one twice as long.
        self._ids = self.unread
        self._count = len(self._ids)
        self._max_new_tokens = task.max_new_tokens
        self._policy = task.policy
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer) if tokenizer is not None else None
        self._matcher = StopMatcher(task.stop)
        self._pieces: list[str] = []
        self._lookup = PromptLookup(self._ids.tolist()) if task.lookup else None

    @property
    def ids(self) -> Tokens:
        """The prompt and all that was written after it."""
        return self._ids[: self._count]

    @property
    def written(self) -> int:
        """How many tokens are new."""
        return self._count - self._prompt_tokens

    def take(self, logits_TV: Float[np.ndarray, "T V"]) -> Iterator[str]:
        """Draw the token that follows each row of logits, as long as the guesses hold; for each the text that is final.

        After that the text has ended, or its last token is one that was not read yet.
        """
        before = self._count
        for logits_V, guessed in zip_longest(logits_TV, self.guess):
            yield self._step(logits_V)
            if self.finish_reason is not None or self._ids[self._count - 1] != guessed:
                break
        if self._lookup is not None:
            self._lookup.extend(self._ids[before : self._count].tolist())
            if self.guess:
                self._lookup.learn(len(self.guess), self._count - before - 1)

    def go_on(self, room: int) -> None:
        """The newest token is to be read next, and guesses with it, where there is room for so many tokens in all."""
        most = min(room, self._max_new_tokens - self.written) - 1
        self.guess = self._lookup.guess(most) if self._lookup is not None else []
        self.unread = np.array([self._ids[self._count - 1], *self.guess], dtype=np.int64)

    def slide(self, context: int) -> None:
        """The context is full: its last half is to be read as a prompt, because positions change."""
        kept = (context + 1) // 2
        self.notice = (
            f"past the context of {context} tokens: when it was full, its last {kept} were read again"
        )
        self.guess = []
        self.unread = self.ids[-kept:]

    def end_full(self, context: int) -> str:
        """The context is full, and the text ends; the text that was held back."""
        self.notice = (
            f"the context of {context} tokens is full after {self.written} of {self._max_new_tokens} new tokens; "
            "slide=True (--slide) goes on from its last half"
        )
        return self._finish("length")

    def generation(self) -> Generation:
        """The row after it has ended."""
        assert self.finish_reason is not None
        return Generation(
            text="".join(self._pieces),
            tokens=self._ids[self._prompt_tokens : self._count].tolist(),
            logprobs=self.logprobs,
            finish_reason=self.finish_reason,
            seed=self.seed,
            prompt_tokens=self._prompt_tokens,
            notice=self.notice,
        )

    def _step(self, logits: np.ndarray[Any, Any]) -> str:
        """Draw the next token; return the text that is final now, and set ``finish_reason`` when it ends here."""
        step = self.written
        if not np.isfinite(logits.max()):
            raise CheckpointError(
                f"the logits of new token {step + 1} are not numbers; expected finite ones; "
                "use --dtype fp32, and if they are so still, the weights are damaged: take another checkpoint"
            )
        drawable = logits
        if self._tokenizer is not None and self._tokenizer.vocab_size < len(logits):
            # Rows of a padded embedding have no text, so they are never drawn.
            drawable = logits.copy()
            drawable[self._tokenizer.vocab_size :] = -np.inf
        token = sampling.choose(
            drawable, self.ids, self._policy, prompt_tokens=self._prompt_tokens, seed=self.seed, step=step
        )
        self._append(token)
        self.logprobs.append(float(sampling.log_probabilities(logits[None], np.array([token]))[0]))
        piece = ""
        if self._tokenizer is not None and self._text is not None:
            if token == self._tokenizer.eot_id:
                return self._finish("stop")
            piece = self._matcher.push(self._text.push(token))
            self._pieces.append(piece)
            if self._matcher.stopped:
                self.finish_reason = "stop"
                return piece
        return piece + self._finish("length") if self.written == self._max_new_tokens else piece

    def _append(self, token: int) -> None:
        if self._count == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
        self._ids[self._count] = token
        self._count += 1

    def _finish(self, reason: FinishReason) -> str:
        """End here; return the text that was held back for what could have followed."""
        rest = self._matcher.push(self._text.finish()) if self._text is not None else ""
        rest += self._matcher.finish()
        self.finish_reason = "stop" if self._matcher.stopped else reason
        self._pieces.append(rest)
        return rest
