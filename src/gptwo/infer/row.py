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
from gptwo.infer.task import FinishReason, Generation, Task, Token
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
        self.new: list[Token] = []
        self.prompt: list[Token | None] = [None] if task.prompt_logprobs else []
        """The prompt's tokens, where they are to be scored, as far as they have been; nothing predicts the first."""
        self.finish_reason: FinishReason | None = None
        self.notice = _NO_TOKENIZER if tokenizer is None else None
        self.prompt_ids = task.prompts[number]
        self.unread = self.prompt_ids
        self.guess: list[int] = []
        self.prompt_tokens = len(self.unread)
        self.cached_tokens: int | None = None
        """Tokens of the prompt that were not computed; None until the model begins to read it."""
        # The first _count of these; a full array is replaced by one twice as long.
        self._ids = self.unread
        self._count = len(self._ids)
        self._first = 0  # position in the text of the first token that the model sees
        self._task = task
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer) if tokenizer is not None else None
        self._matcher = StopMatcher(task.stop)
        self._pieces: list[str] = []
        self._lookup = PromptLookup(self._ids.tolist()) if task.lookup else None
        self._constraint = task.constraint() if task.constraint is not None else None

    @property
    def ids(self) -> Tokens:
        """The prompt and all that was written after it."""
        return self._ids[: self._count]

    @property
    def written(self) -> int:
        """How many tokens are new."""
        return self._count - self.prompt_tokens

    @property
    def scores_prompt(self) -> bool:
        """Whether logits that follow the prompt's tokens are still wanted."""
        return self._task.prompt_logprobs and len(self.prompt) < self.prompt_tokens

    @property
    def slides(self) -> bool:
        """Whether it goes on when the context is full."""
        return self._task.slide

    def wanted(self, read: int, count: int) -> int:
        """Of how many of ``unread[read : read + count]`` the logits are wanted: the last so many."""
        if self.scores_prompt:
            return count
        return 1 + len(self.guess) if read + count == len(self.unread) else 0

    def score_prompt(self, read: int, logits_TV: Float[np.ndarray, "T V"]) -> None:
        """The logits that follow the prompt's tokens from ``read`` on are these."""
        for position, logits_V in enumerate(logits_TV, start=read + 1):
            if position == len(self.prompt) < self.prompt_tokens:
                self.prompt.append(self._token(logits_V, int(self._ids[position])))

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
        most = min(room, self._task.max_new_tokens - self.written) - 1
        self.guess = self._lookup.guess(most) if self._lookup is not None else []
        self.unread = np.array([self._ids[self._count - 1], *self.guess], dtype=np.int64)

    def restart(self) -> None:
        """What the model read of it is lost, and is to be read again."""
        self.guess = []
        self.unread = self.ids[self._first :]

    def slide(self, context: int) -> None:
        """The context is full: its last half is to be read as a prompt, because positions change."""
        kept = (context + 1) // 2
        self.notice = (
            f"past the context of {context} tokens: when it was full, its last {kept} were read again"
        )
        self._first = self._count - kept
        self.restart()

    def end_full(self, context: int) -> str:
        """The context is full, and the text ends; the text that was held back."""
        self.notice = (
            f"the context of {context} tokens is full after {self.written} of {self._task.max_new_tokens} new tokens; "
            "slide=True (--slide) goes on from its last half"
        )
        return self._finish("length")

    def generation(self) -> Generation:
        """The row after it has ended."""
        assert self.finish_reason is not None
        return Generation(
            text="".join(self._pieces),
            tokens=[token.id for token in self.new],
            logprobs=[token.logprob for token in self.new],
            finish_reason=self.finish_reason,
            seed=self.seed,
            prompt_tokens=self.prompt_tokens,
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
        token = sampling.choose(
            self._drawable(logits),
            self.ids,
            self._task.policy,
            prompt_tokens=self.prompt_tokens,
            seed=self.seed,
            step=step,
        )
        self._append(token)
        self.new.append(self._token(logits, token))
        if self._constraint is not None:
            self._constraint.accept(token)
        piece = ""
        if self._tokenizer is not None and self._text is not None:
            if token == self._tokenizer.eot_id:
                if not self._task.ignore_eos:
                    return self._finish("stop")
            else:
                piece = self._matcher.push(self._text.push(token))
            self._pieces.append(piece)
            if self._matcher.stopped:
                self.finish_reason = "stop"
                return piece
        if self._constraint is not None and self._constraint.finished:
            return piece + self._finish("stop")
        return piece + self._finish("length") if self.written == self._task.max_new_tokens else piece

    def _drawable(self, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The logits, -∞ where a token may not be drawn."""
        padded = self._tokenizer is not None and self._tokenizer.vocab_size < len(logits)
        if not padded and self._constraint is None:
            return logits
        drawable = logits.copy()
        if padded and self._tokenizer is not None:
            # Rows of a padded embedding have no text.
            drawable[self._tokenizer.vocab_size :] = -np.inf
        if self._constraint is not None:
            drawable[~self._constraint.allowed()] = -np.inf
        return drawable

    def _token(self, logits: np.ndarray[Any, Any], token: int) -> Token:
        """``token`` after these logits, with the most probable ones."""
        ids = np.concatenate([[token], sampling.largest(logits, self._task.top_logprobs)])
        of, *of_top = sampling.log_probabilities(logits[None], ids[None])[0].tolist()
        return Token(token, of, tuple(zip(ids[1:].tolist(), of_top, strict=True)))

    def _append(self, token: int) -> None:
        if self._count == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
        self._ids[self._count] = token
        self._count += 1

    def _finish(self, reason: FinishReason) -> str:
        """End here; return the text that was held back for what could have followed."""
        rest = self._text.finish() if self._text is not None else ""
        if self._task.whole_characters:
            rest = rest.rstrip("\ufffd")
        rest = self._matcher.push(rest)
        rest += self._matcher.finish()
        self.finish_reason = "stop" if self._matcher.stopped else reason
        self._pieces.append(rest)
        return rest
