"""Texts that are written side by side, each as far as it is: schedule, run the model once, give out what it brought."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gptwo.base.errors import GptwoError
from gptwo.infer.engine import Session
from gptwo.infer.row import Row
from gptwo.infer.schedule import Scheduler, Seat
from gptwo.infer.task import Token

if TYPE_CHECKING:
    from jaxtyping import Float


class Written(NamedTuple):
    """What a pass brought for a row: new tokens, final text in pieces, or why the row has failed."""

    row: Row
    tokens: list[Token]
    pieces: list[str]
    error: GptwoError | None


class Batch:
    """Continuous batching over the slots of a session: rows come and go between any two passes.

    A row that has failed or ended has left the batch. What a row draws depends on its own logits alone.
    """

    def __init__(self, session: Session, scheduler: Scheduler, *, context: int) -> None:
        self.scheduler = scheduler
        self._session = session
        self._context = context

    def __len__(self) -> int:
        """Rows that are here, waiting ones included."""
        return len(self.scheduler.running) + len(self.scheduler.waiting)

    def step(self) -> list[Written]:
        """One pass of the model; what it brought, in the order of the rows. Without rows, nothing.

        An error of the model itself leaves all as it was before.
        """
        reads = self.scheduler.schedule()
        if not reads:
            return []
        slots, texts, last = [], [], []
        for seat, count in reads:
            assert seat.slot is not None
            slots.append(seat.slot)
            texts.append(seat.row.unread[seat.read : seat.read + count])
            last.append(seat.row.wanted(seat.read, count))
        if all(len(text) == wanted == 1 for text, wanted in zip(texts, last, strict=True)):
            logits = list(self._session.decode(slots, np.concatenate(texts))[:, None])
        else:
            logits = self._session.read(slots, texts, last)
        ready: list[tuple[Seat, Float[np.ndarray, "T V"]]] = []
        for (seat, count), logits_TV in zip(reads, logits, strict=True):
            if seat.row.scores_prompt:
                seat.row.score_prompt(seat.read, logits_TV)
            seat.read += count
            if seat.read == len(seat.row.unread):
                following = logits_TV[len(logits_TV) - 1 - len(seat.row.guess) :]
                ready += [(one, following) for one in [seat, *self._followers(seat)]]
        return [self._take(seat, logits_TV) for seat, logits_TV in ready]

    def _followers(self, leader: Seat) -> list[Seat]:
        """Those who waited for the prompt that has just been read, as copies of the seat that read it."""
        followers = [seat for seat in self.scheduler.running if seat.leader is leader]
        for seat in followers:
            assert leader.slot is not None
            assert seat.slot is not None
            self._session.copy(leader.slot, seat.slot)
            seat.leader = None
        return followers

    def _take(self, seat: Seat, logits_TV: Float[np.ndarray, "T V"]) -> Written:
        row, slot = seat.row, seat.slot
        assert slot is not None
        before = row.written
        pieces: list[str] = []
        try:
            pieces.extend(row.take(logits_TV))
        except GptwoError as error:
            self.scheduler.free(seat)
            return Written(row, row.new[before:], pieces, error)
        # The slot has read the guesses too, and those that were wrong are not part of the text.
        held = int(self._session.lengths[slot]) - (len(row.guess) - (row.written - before - 1))
        if row.finish_reason is None and held == self._context and not row.slides:
            pieces.append(row.end_full(self._context))
        if row.finish_reason is not None:
            self.scheduler.free(seat)
        elif held == self._context:
            self._session.truncate(slot, 0)
            row.slide(self._context)
            seat.read, seat.writing = 0, False
        else:
            self._session.truncate(slot, held)
            row.go_on(self._context - held)
            seat.read, seat.writing = 0, True
        return Written(row, row.new[before:], pieces, None)
