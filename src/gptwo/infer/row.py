"""One text that is being written: from logits to its next token, and from its tokens to text. No torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

from gptwo.base.errors import CheckpointError
from gptwo.infer.candidates import MOST_CANDIDATES, candidates, choose_from_top, decided
from gptwo.infer.engine import Sampler, Tokens
from gptwo.infer.following import Following
from gptwo.infer.lookup import PromptLookup
from gptwo.infer.stop import StopMatcher
from gptwo.infer.task import FinishReason, Generation, Task, Token
from gptwo.kernels.top import Top
from gptwo.tokenizer.stream import TextStream
from gptwo.tokenizer.tokenizer import Tokenizer

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
        # The largest logits that may decide the next token; None where it takes all.
        self._enough = candidates(task.policy) if task.constraint is None else None
        # Rows of a padded embedding have no text.
        self._drawable_ids = tokenizer.vocab_size if tokenizer is not None else sys.maxsize

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

    @property
    def largest(self) -> int:
        """How many of the largest logits are wanted of each place: what may decide the next token, or is reported."""
        return max(self._enough or 1, self._task.top_logprobs)

    @property
    def needs_all(self) -> bool:
        """Whether all logits are wanted, too."""
        return self._enough is None or self.scores_prompt or self.largest > MOST_CANDIDATES

    def decided_by(self, top: Top) -> bool:
        """Whether the largest logits of each place decide the token after it."""
        return all(self._decided(ids, logits) for ids, logits, _ in zip(*top, strict=True))

    def score_prompt(self, read: int, following: Following) -> None:
        """This follows the prompt's tokens from ``read`` on."""
        assert following.logits_TV is not None
        for place, logits_V in enumerate(following.logits_TV):
            if read + place + 1 == len(self.prompt) < self.prompt_tokens:
                token = int(self._ids[read + place + 1])
                self.prompt.append(self._token(following.top, place, token, float(logits_V[token])))

    def take(self, following: Following, sampler: Sampler) -> Iterator[str]:
        """Draw the token that follows each place, as long as the guesses hold; for each the text that is final.

        After that the text has ended, or its last token is one that was not read yet.
        """
        before = self._count
        for place, guessed in zip_longest(range(len(following.top.ids_nk)), self.guess):
            yield self._step(following, place, sampler)
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

    def _step(self, following: Following, place: int, sampler: Sampler) -> str:
        """Draw the next token; return the text that is final now, and set ``finish_reason`` when it ends here."""
        step = self.written
        if not np.isfinite(following.top.log_sum_exp_n[place]):
            raise CheckpointError(
                f"the logits of new token {step + 1} are not numbers; expected finite ones; "
                "use --dtype fp32, and if they are so still, the weights are damaged: take another checkpoint"
            )
        token, logit = self._draw(following, place, sampler)
        self._append(token)
        self.new.append(self._token(following.top, place, token, logit))
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

    def _draw(self, following: Following, place: int, sampler: Sampler) -> tuple[int, float]:
        """The next token and its logit. Which way it is drawn follows from the row's own logits and policy alone."""
        policy, step = self._task.policy, self.written
        ids, logits = (array[place, : self._enough] for array in following.top[:2])
        # Where only these were brought, they were asked already.
        if following.logits_TV is None or self._decided(ids, logits):
            chosen = choose_from_top(
                ids, logits, policy, drawable=self._drawable_ids, seed=self.seed, step=step
            )
            return int(ids[chosen]), float(logits[chosen])
        logits_V = following.logits_TV[place]
        token = sampler.choose(
            self._drawable(logits_V),
            self.ids,
            policy,
            prompt_tokens=self.prompt_tokens,
            seed=self.seed,
            step=step,
        )
        return token, float(logits_V[token])

    def _decided(self, ids: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]) -> bool:
        return self._enough is not None and decided(
            ids[: self._enough], logits[: self._enough], self._task.policy, drawable=self._drawable_ids
        )

    def _drawable(self, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The logits, -∞ where a token may not be drawn."""
        padded = self._drawable_ids < len(logits)
        if not padded and self._constraint is None:
            return logits
        drawable = logits.copy()
        if padded:
            drawable[self._drawable_ids :] = -np.inf
        if self._constraint is not None:
            drawable[~self._constraint.allowed()] = -np.inf
        return drawable

    def _token(self, top: Top, place: int, token: int, logit: float) -> Token:
        """``token``, of this logit, with the most probable ones of the place."""
        ids, logits, total = (array[place] for array in top)
        reported = zip(ids[: self._task.top_logprobs].tolist(), logits.tolist(), strict=False)
        return Token(token, logit - float(total), tuple((i, z - float(total)) for i, z in reported))

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
