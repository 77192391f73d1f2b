"""The engine's thread, as an event loop sees it: texts are asked for here, and come back piece by piece."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol

from gptwo.base.errors import ConfigError, QueueFullError, ServerClosingError, TokenizerError
from gptwo.infer import sampling
from gptwo.infer.api import LanguageModel
from gptwo.infer.batch import Batch
from gptwo.infer.generate import require_task
from gptwo.infer.row import Row
from gptwo.infer.schedule import Scheduler
from gptwo.infer.task import FinishReason, Task
from gptwo.serve.writing import Piece, Text, TextFacts, Writing, piece_of
from gptwo.tokenizer.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
# Tokens of prompts in one pass: beside texts that are written, so that these go on several times a second on a small
# machine, and where there are none. Products of 64 rows are nearly as fast, row for row, as those of 512.
CHUNK, CHUNK_ALONE = 64, 512


class Observer(Protocol):
    """Who wants to know. Called from the engine's thread."""

    def on_text(self, facts: TextFacts) -> None:
        """A text has ended, in whatever way."""


class WriterStats(NamedTuple):
    """Texts and memory just now, and since the beginning: tokens read and written, and those of prompts reused."""

    running: int
    waiting: int
    kv_use: float
    kv_tokens: int
    prefix_queries: int
    prefix_hits: int
    preemptions: int


class Writer:
    """Writes the texts of many tasks side by side, in a thread of its own.

    slots         texts that are written at once
    cache_tokens  what the memory for keys and values holds, of all of them together; None for all that they can fill
    queue         texts that may wait
    prefix_cache  use the keys and values of texts that began alike
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        slots: int,
        cache_tokens: int | None,
        queue: int,
        prefix_cache: bool = True,
        observer: Observer | None = None,
    ) -> None:
        self._engine = model.engine
        try:
            self._tokenizer: Tokenizer | None = model.tokenizer
        except TokenizerError:
            self._tokenizer = None
        self._observer = observer
        self._most = slots + queue
        self._closing = False
        # To the event loop alone.
        self._open: set[Writing] = set()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        # To the engine's thread alone.
        self._texts: dict[Row, Text] = {}
        self.wrote = 0
        """Tokens, of all texts."""
        self.ran_s = 0.0
        """Seconds that the model ran, prompts among them."""
        context = self._engine.config.context
        session = self._engine.start(slots=slots, capacity=context, pool=cache_tokens)
        scheduler = Scheduler(session, chunk=CHUNK, chunk_alone=CHUNK_ALONE, reuse=prefix_cache)
        self._batch = Batch(session, scheduler, context=context)
        # Between both, under the lock.
        self._wake = threading.Condition()
        self._arrived: list[Text] = []
        self._cancelled: list[Writing] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="gptwo-engine", daemon=True)

    def start(self) -> None:
        """Begin, for the event loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def require_room(self, count: int) -> None:
        """``QueueFullError`` or ``ServerClosingError`` if so many texts are not taken now, ``ConfigError`` if never.

        ``submit`` asks this, too; before it, who would be refused then need not wait for a long prompt to be encoded.
        """
        if self._closing:
            raise ServerClosingError("the server is going down; ask again when it is back")
        if count > self._most:
            raise ConfigError(
                f"{count} texts are asked for at once; expected at most {self._most}; ask for fewer"
            )
        if self._in_flight + count > self._most:
            raise QueueFullError(
                f"{self._in_flight} texts are being written or wait, and the server takes {self._most}; ask again later"
            )

    def submit(self, task: Task) -> Writing:
        """Ask for the texts of a task; returns at once.

        Raises what ``require_room`` does, and ``infer.generate.write``.
        """
        count = len(task.prompts)
        self.require_room(count)
        require_task(self._engine, task)
        seed = task.policy.seed if task.policy.seed is not None else sampling.fresh_seed()
        task = replace(task, whole_characters=True)
        rows = [Row(task, number, self._tokenizer, seed + number) for number in range(count)]
        writing = Writing(rows, self._cancel)
        self._open.add(writing)
        self._in_flight += count
        asked = time.perf_counter()
        with self._wake:
            self._arrived += [Text(row, writing, asked) for row in rows]
            self._wake.notify()
        return writing

    @property
    def stats(self) -> WriterStats:
        """Just now."""
        scheduler = self._batch.scheduler
        running = len(scheduler.running)
        return WriterStats(
            running=running,
            waiting=max(0, self._in_flight - running),
            kv_use=scheduler.session.use,
            kv_tokens=scheduler.session.pool,
            prefix_queries=scheduler.counts.asked,
            prefix_hits=scheduler.counts.reused,
            preemptions=scheduler.counts.preemptions,
        )

    async def close(self, grace_s: float) -> None:
        """Take nothing more; what runs may end within ``grace_s`` seconds, and then fails. The thread has ended."""
        self._closing = True
        if self._in_flight:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), grace_s)
            except TimeoutError:
                for writing in list(self._open):
                    writing.fail(ServerClosingError("the server went down before the text was done"))
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    # --- On the event loop --------------------------------------------------------------------------------------------

    def _cancel(self, writing: Writing) -> None:
        with self._wake:
            self._cancelled.append(writing)
            self._wake.notify()

    def _deliver(self, pieces: list[tuple[Writing, Piece]]) -> None:
        for writing, piece in pieces:
            writing.deliver(piece)

    def _gone(self, writing: Writing, count: int, error: BaseException | None) -> None:
        """So many texts of it are in the batch no more."""
        if error is not None:
            writing.fail(error)
        self._in_flight -= count
        if writing.ended:
            self._open.discard(writing)
        if self._in_flight == 0:
            self._idle.set()

    # --- In the engine's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._arrived or self._cancelled or self._stopped or len(self._batch)):
                    self._wake.wait()
                arrived, self._arrived = self._arrived, []
                cancelled, self._cancelled = self._cancelled, []
                if self._stopped:
                    return
            for text in arrived:
                self._texts[text.row] = text
                self._batch.scheduler.add(text.row)
            for writing in cancelled:
                self._leave(writing, "abort")
            try:
                self._pass()
            # The panic of a library in Rust is no Exception, and this thread has to go on.
            except BaseException as error:
                _log.exception("a pass of the model failed; all texts in it are lost")
                # Their slots are empty then, and the session goes on: there may be no memory for a second one.
                for writing in {text.writing for text in self._texts.values()}:
                    self._leave(writing, "error", error)

    def _pass(self) -> None:
        begins = time.perf_counter()
        outcomes = self._batch.step()
        now = time.perf_counter()
        self.ran_s += now - begins
        self.wrote += sum(len(outcome.tokens) for outcome in outcomes)
        for outcome in outcomes:
            text = self._texts[outcome.row]
            if text.begun is None:
                text.begun = begins
            text.tokens += [now] * len(outcome.tokens)
        pieces = [
            (self._texts[outcome.row].writing, piece_of(outcome)) for outcome in outcomes if outcome.tokens
        ]
        ended = [
            self._texts.pop(row)
            for row, _, _, error in outcomes
            if error is None and row.finish_reason is not None
        ]
        for text in ended:
            # Before anybody hears of its end, and asks for the counts.
            assert text.row.finish_reason is not None
            self._report(text, text.row.finish_reason)
        if pieces:
            self._tell(self._deliver, pieces)
        for text in ended:
            self._tell(self._gone, text.writing, 1, None)
        for row, _, _, error in outcomes:
            # Not if another text of its task has failed before it, and taken it along.
            if error is not None and row in self._texts:
                self._leave(self._texts[row].writing, "error", error)

    def _leave(
        self, writing: Writing, how: Literal["abort", "error"], error: BaseException | None = None
    ) -> None:
        """All texts of it that are left."""
        texts = [text for row in writing.rows if (text := self._texts.pop(row, None))]
        for text in texts:
            self._batch.scheduler.remove(text.row)
            self._report(text, how)
        self._tell(self._gone, writing, len(texts), error)

    def _report(self, text: Text, how: FinishReason | Literal["abort", "error"]) -> None:
        if self._observer is not None:
            self._observer.on_text(text.facts(how))

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:
            _log.debug("the event loop has gone; nobody is told")
