"""The log: one line for each request, in JSON or for people. Nothing that a client sends can begin a line or end one.

Every string is escaped as JSON, in ASCII, and cut; the text of prompts is left out unless ``log_prompts`` asks for it.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gptwo.serve.metrics import Metrics
    from gptwo.serve.settings import LogFormat, ServeSettings

PROMPT_FACTS = frozenset({"prompt", "messages"})
"""What a line has of a request's text, with ``log_prompts``."""

_LONGEST = 500
_LONGEST_OF = {"traceback": 20_000, **dict.fromkeys(PROMPT_FACTS, 10_000)}
# Lines that wait for a reader of the log who is behind; more are counted and left out.
_MOST_WAITING = 10_000
_PLAIN = re.compile(r"[A-Za-z0-9_./:{}@-]+")
_CLIENT_GONE = 499


class Log:
    """Lines of facts to a stream, from a thread of its own: a reader who is slow, or gone, holds up no request."""

    def __init__(self, stream: TextIO, line_format: LogFormat = "json") -> None:
        self._stream = stream
        self._format = line_format
        self._lines: queue.Queue[str | None] = queue.Queue(_MOST_WAITING)
        self._left_out = 0
        self._thread = threading.Thread(target=self._write_all, name="gptwo-log", daemon=True)
        self._thread.start()

    def line(self, event: str, **facts: Any) -> None:
        """One line: the time, what happened, and the facts."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._left_out:
            facts["lines_left_out"] = self._left_out
        facts = {"time": now, "event": event, **{name: _short(name, fact) for name, fact in facts.items()}}
        try:
            self._lines.put_nowait(json.dumps(facts) if self._format == "json" else _text(facts))
            self._left_out = 0
        except queue.Full:
            self._left_out += 1

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what waits, as far as the reader takes it within that time."""
        try:
            self._lines.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                # Nobody reads any more, or the disk is full. The server goes on.
                continue

    @contextmanager
    def records(self) -> Iterator[None]:
        """While entered, warnings and errors of Python's own log come here too, a traceback within its line."""
        handler = _Records(self)
        loggers = [logging.getLogger(name) for name in ("gptwo", "uvicorn", "asyncio")]
        for logger in loggers:
            logger.addHandler(handler)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)


class _Records(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = {"level": record.levelname.lower(), "logger": record.name}
        facts["message"] = record.getMessage()
        if record.exc_info:
            facts["traceback"] = logging.Formatter().formatException(record.exc_info)
        self._log.line("log", **facts)


def log_facts(request: Request) -> dict[str, Any]:
    """What the line of this request will say beside the usual: for routes to add tokens, reasons, durations."""
    facts: dict[str, Any] = request.scope.setdefault("state", {}).setdefault("log", {})
    return facts


class RequestLog:
    """Writes the line of each request when it is done, of a stream after its last byte, and counts it.

    Routes add what they know: ``log_facts``. Status 499: the client went away before there was an answer.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, log: Log, metrics: Metrics) -> None:
        self._app = app
        self._log_prompts = settings.log_prompts
        self._log = log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        added: dict[str, Any] = {}
        scope.setdefault("state", {})["log"] = added
        began = time.perf_counter()
        status = _CLIENT_GONE

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            status = 500
            raise
        finally:
            self._write(scope, status, 1000 * (time.perf_counter() - began), added)

    def _write(self, scope: Scope, status: int, duration_ms: float, added: Mapping[str, Any]) -> None:
        # A route's own pattern, because it is one of few: a client could fill memory with names of its choice.
        route = getattr(scope.get("route"), "path", None)
        self._metrics.on_request(route or "other", status)
        facts: dict[str, Any] = {
            "id": scope["state"].get("request_id"),
            "client": (scope.get("client") or (None,))[0],
            "method": scope["method"],
            "route": route,
            "status": status,
            "duration_ms": round(duration_ms, 3),
        }
        if route is None:
            facts["path"] = scope["path"]
        for name, fact in added.items():
            if name not in facts and (self._log_prompts or name not in PROMPT_FACTS):
                facts[name] = fact
        self._log.line("request", **facts)


def _short(name: str, fact: Any) -> Any:
    """Numbers as they are, all else as a string of a certain length."""
    if fact is None or isinstance(fact, bool | int | float):
        return fact
    text = fact if isinstance(fact, str) else json.dumps(fact, default=str)
    longest = _LONGEST_OF.get(name, _LONGEST)
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text)} characters)"


def _text(facts: Mapping[str, Any]) -> str:
    """``time event name=value …``; what is not plain is quoted as in JSON."""
    words = [str(facts["time"]), str(facts["event"])]
    for name, fact in facts.items():
        if name not in ("time", "event") and fact is not None:
            plain = isinstance(fact, str) and _PLAIN.fullmatch(fact)
            words.append(f"{name}={fact if plain else json.dumps(fact)}")
    return " ".join(words)
