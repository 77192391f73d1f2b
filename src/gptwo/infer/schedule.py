"""Which texts read what in the next pass of the model, and with which memory. Nothing is computed here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from gptwo.infer.engine import Session
from gptwo.infer.row import Row


@dataclass(eq=False)
class Seat:
    """A row on its way: ``waiting``, then with a slot.

    read     how many tokens of ``row.unread`` the slot has read
    writing  the row has taken logits since its slot was empty, so it reads its newest token and the guesses
    leader   the seat that reads the same prompt just now; this one becomes a copy of it
    """

    row: Row
    slot: int | None = None
    read: int = 0
    writing: bool = False
    leader: Seat | None = None


@dataclass
class Counts:
    """What has happened since the beginning: how often a text lost its memory to others, and tokens of prompts.

    ``reused`` of the ``asked`` tokens of prompts were still known; those of who waits for a leader are not asked for.
    """

    preemptions: int = 0
    asked: int = 0
    reused: int = 0


@dataclass
class Scheduler:
    """First come, first served, with memory that is taken as it is needed.

    Every text that writes reads its tokens in every pass. Prompts share what is left: ``chunk`` tokens of a pass beside
    texts that write, so that these are not held up, and ``chunk_alone`` where there are none; None is no limit. When
    memory runs out, the text that came last gives its up and is read again later: it goes on as if nothing had been.
    """

    session: Session
    chunk: int | None = None
    chunk_alone: int | None = None
    reuse: bool = True
    waiting: deque[Seat] = field(default_factory=deque)
    running: list[Seat] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._free = list(range(len(self.session.lengths) - 1, -1, -1))

    def add(self, row: Row) -> None:
        """The row waits for its turn."""
        self.waiting.append(Seat(row))

    def remove(self, row: Row) -> None:
        """The row is gone, wherever it was, and its memory free; nothing if it is not here."""
        for seat in self.running:
            if seat.row is row:
                self.free(seat)
                return
        self.waiting = deque(seat for seat in self.waiting if seat.row is not row)

    def free(self, seat: Seat) -> None:
        """A running seat has ended."""
        self.running.remove(seat)
        self._leave(seat)

    def followers(self, leader: Seat) -> list[Seat]:
        """Those who wait for the prompt that this seat reads."""
        return [seat for seat in self.running if seat.leader is leader]

    def schedule(self) -> list[tuple[Seat, int]]:
        """The seats that read in the next pass, and how many tokens each of its row's; none when nobody is left.

        Seats whose leader reads are not among them.
        """
        limit = self.chunk if any(seat.writing for seat in self.running) else self.chunk_alone
        left = (
            limit
            if limit is not None
            else sum(len(seat.row.unread) for seat in [*self.running, *self.waiting])
        )
        reads: list[tuple[Seat, int]] = []
        for seat in self.running:
            count = len(seat.row.unread) - seat.read
            if not seat.writing:
                count = 0 if seat.leader else min(count, left)
                left -= count
            if count:
                reads.append((seat, count))
        while not self._fits(reads):
            last = self.running[-1]
            reads = [(seat, count) for seat, count in reads if seat is not last]
            self._preempt(last)
        self._admit(reads, left)
        return reads

    def _admit(self, reads: list[tuple[Seat, int]], left: int) -> None:
        """Give slots to those who wait, as far as there is memory for all of their texts; adds to ``reads``."""
        while self.waiting and self._free and left > 0:
            seat = self.waiting[0]
            text = seat.row.unread
            seat.slot = self._free.pop()
            seat.leader = self._leader(seat)
            looks_up = seat.leader is None and self.reuse and not seat.row.scores_prompt
            if looks_up:
                seat.read = self.session.reuse(seat.slot, text)
            count = 0 if seat.leader else min(len(text) - seat.read, left)
            # Not only this pass's part: a text that is let in and put out again has been read for nothing.
            if not seat.leader and not self._fits([*reads, (seat, len(text) - seat.read)]):
                self._leave(seat)
                return
            if seat.row.cached_tokens is None:
                seat.row.cached_tokens = seat.read
                if looks_up:
                    self.counts.asked += len(text)
                    self.counts.reused += seat.read
            self.waiting.popleft()
            self.running.append(seat)
            left -= count
            if count:
                reads.append((seat, count))

    def _leader(self, seat: Seat) -> Seat | None:
        if seat.row.scores_prompt:
            return None
        text = seat.row.unread.tobytes()
        for other in self.running:
            reads_first = not other.writing and other.leader is None
            if reads_first and other.row.unread.tobytes() == text:
                return other
        return None

    def _fits(self, reads: list[tuple[Seat, int]]) -> bool:
        return self.session.fits(
            [seat.slot for seat, _ in reads if seat.slot is not None], [n for _, n in reads]
        )

    def _preempt(self, seat: Seat) -> None:
        self.free(seat)
        seat.row.restart()
        self.waiting.appendleft(seat)
        self.counts.preemptions += 1

    def _leave(self, seat: Seat) -> None:
        """The seat has no slot any more, and who waited for its prompt reads it alone."""
        if seat.slot is not None:
            self.session.truncate(seat.slot, 0)
            self._free.append(seat.slot)
        seat.slot, seat.read, seat.writing, seat.leader = None, 0, False, None
        for follower in self.followers(seat):
            follower.leader = None
