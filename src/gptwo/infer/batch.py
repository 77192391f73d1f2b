"""Texts that are written side by side, each as far as it is: schedule, run the model once, give out what it brought."""

from __future__ import annotations

from typing import NamedTuple

from gptwo.base.errors import GptwoError
from gptwo.infer.engine import Session
from gptwo.infer.following import Following, read_following
from gptwo.infer.row import Row
from gptwo.infer.schedule import Scheduler, Seat
from gptwo.infer.task import Token


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

        After an error of the model itself the batch is to be given up: slots may have read what no seat knows of.
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
        takers = [[one.row for one in [seat, *self.scheduler.followers(seat)]] for seat, _ in reads]
        read = read_following(self._session, slots, texts, last, takers)
        ready: list[tuple[Seat, Following]] = []
        for (seat, count), following in zip(reads, read, strict=True):
            if seat.row.scores_prompt:
                seat.row.score_prompt(seat.read, following)
            seat.read += count
            if seat.read == len(seat.row.unread):
                unseen = following.last(1 + len(seat.row.guess))
                ready += [(one, unseen) for one in [seat, *self._copies(seat)]]
        return [self._take(seat, following) for seat, following in ready]

    def _copies(self, leader: Seat) -> list[Seat]:
        """The followers, as copies of the seat that has read their prompt."""
        followers = self.scheduler.followers(leader)
        for seat in followers:
            assert leader.slot is not None
            assert seat.slot is not None
            self._session.copy(leader.slot, seat.slot)
            seat.leader = None
        return followers

    def _take(self, seat: Seat, following: Following) -> Written:
        row, slot = seat.row, seat.slot
        assert slot is not None
        before = row.written
        pieces: list[str] = []
        try:
            pieces.extend(row.take(following, self._session.sampler))
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
