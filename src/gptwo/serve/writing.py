"""Texts on their way from the engine's thread to who asked for them, and what is known of them when they have ended."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from gptwo.infer.batch import Written
from gptwo.infer.row import Row
from gptwo.infer.task import FinishReason, Token


class Piece(NamedTuple):
    """What one pass of the model brought for a text.

    number         of the text in its task
    text           what is final now: never half a character, nor part of a stop string; may be ""
    tokens         that were drawn, those of a stop string and the one that ends a text among them
    finish_reason  in the last piece of a text
    prompt         in the first one, where they were asked for: the prompt's tokens; nothing predicts the first
    """

    number: int
    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None
    prompt: tuple[Token | None, ...] = ()


class TextFacts(NamedTuple):
    """A text that has ended: its tokens, and where its time went, in seconds.

    queue until the model began to read it · prefill from then to its first token, first_token from the beginning ·
    decode from then to its last · gaps between its tokens, those of one pass without any
    """

    finish_reason: FinishReason | Literal["abort", "error"]
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    first_token_s: float | None
    end_to_end_s: float
    token_gaps_s: list[float]


class Writing:
    """The texts of a task, on their way: ``async for piece in writing``. To the event loop alone.

    Raises what made a text fail, when its pieces have been given out; the other texts are then ended too.
    """

    def __init__(self, rows: list[Row], on_cancel: Callable[[Writing], None]) -> None:
        self.rows = rows
        self._on_cancel = on_cancel
        self._pieces: deque[Piece] = deque()
        self._left = len(rows)
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        """No more pieces will come."""
        return self._left == 0

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, each counted once, however many texts follow it."""
        return sum(row.prompt_tokens for row in self._firsts())

    @property
    def cached_tokens(self) -> int:
        """Of these, the tokens whose keys and values were still there."""
        return sum(row.cached_tokens or 0 for row in self._firsts())

    def cancel(self) -> None:
        """Nobody waits any longer: memory is free before the next pass. Nothing if it has ended."""
        if not self.ended:
            self._left = 0
            self._on_cancel(self)
            self._changed.set()

    def __aiter__(self) -> Writing:
        return self

    async def __anext__(self) -> Piece:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._pieces.popleft()

    def _firsts(self) -> Iterable[Row]:
        return {id(row.prompt_ids): row for row in reversed(self.rows)}.values()

    def deliver(self, piece: Piece) -> None:
        if not self.ended:
            self._pieces.append(piece)
            self._left -= piece.finish_reason is not None
            self._changed.set()

    def fail(self, error: BaseException) -> None:
        if not self.ended:
            self._error = error
            self.cancel()


@dataclass(eq=False)
class Text:
    """A row and its times, of ``time.perf_counter``."""

    row: Row
    writing: Writing
    asked: float
    begun: float | None = None
    tokens: list[float] = field(default_factory=list)

    def facts(self, finish_reason: FinishReason | Literal["abort", "error"]) -> TextFacts:
        now = time.perf_counter()
        begun = now if self.begun is None else self.begun
        first = self.tokens[0] if self.tokens else now
        return TextFacts(
            finish_reason=finish_reason,
            prompt_tokens=self.row.prompt_tokens,
            cached_tokens=self.row.cached_tokens or 0,
            generated_tokens=self.row.written,
            queue_s=begun - self.asked,
            prefill_s=first - begun,
            decode_s=(self.tokens[-1] if self.tokens else now) - first,
            first_token_s=first - self.asked if self.tokens else None,
            end_to_end_s=now - self.asked,
            token_gaps_s=[b - a for a, b in zip(self.tokens, self.tokens[1:], strict=False)],
        )


def piece_of(outcome: Written) -> Piece:
    row, tokens, pieces, _ = outcome
    return Piece(
        number=row.number,
        text="".join(pieces),
        tokens=tuple(tokens),
        finish_reason=row.finish_reason,
        prompt=tuple(row.prompt) if row.written == len(tokens) else (),
    )
