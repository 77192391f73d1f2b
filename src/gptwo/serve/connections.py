"""uvicorn's connections with deadlines and a number of places: a slow client cannot hold one for ever.

uvicorn itself waits as long as a client likes: for a request's head, for its body, and for the reading of an answer.
"""

from __future__ import annotations

import asyncio
import http
import json
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gptwo.serve.errors import ApiError, RequestIds
from gptwo.serve.settings import REFUSED_AT_ONCE

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from gptwo.serve.settings import ServeSettings

Phase = Literal["head", "body", "answer", "idle"]
Drop = Literal["head", "body", "write", "place", "full", "malformed", "pipelined"]
"""Why a connection was ended: a deadline's name, its place for another, no place, or what it sent."""


class Connections:
    """All connections of a server. ``protocol`` makes one for uvicorn; ``watch`` ends those that are too slow.

    When all places are taken, the connection that has kept the server waiting longest loses its own: an ordinary client
    sends its request within milliseconds, so it comes in past any number of slow ones. A request that is being answered
    keeps its place; when all are, a newcomer gets 429.
    """

    def __init__(
        self, settings: ServeSettings, on_drop: Callable[[Drop], None] = lambda reason: None
    ) -> None:
        self.settings = settings
        self.on_drop = on_drop
        self._placed: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}
        """Those of ``_placed`` whose client has the next word, the longest silent one first."""

    def __len__(self) -> int:
        return len(self._placed)

    def protocol(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        """A new connection, as uvicorn asks for it."""
        return Connection(self, config, server_state, app_state, _loop)

    def enter(self, connection: Connection) -> bool:
        """Give it a place; False when there is none, and no more than REFUSED_AT_ONCE may be told so."""
        if len(self._placed) >= self.settings.max_connections:
            if not self._waiting:
                connection.app = _full
                self._refused.add(connection)
                return len(self._refused) <= REFUSED_AT_ONCE
            next(iter(self._waiting)).drop("place")
        self._placed.add(connection)
        self.waits(connection)
        return True

    def leave(self, connection: Connection) -> None:
        self._placed.discard(connection)
        self._refused.discard(connection)
        self._waiting.pop(connection, None)

    def waits(self, connection: Connection) -> None:
        """From now on it is the client's turn."""
        self._waiting.pop(connection, None)
        if connection in self._placed:
            self._waiting[connection] = None

    def answers(self, connection: Connection) -> None:
        """From now on it is the server's turn."""
        self._waiting.pop(connection, None)

    async def watch(self) -> None:
        """For ever: several times within the shortest deadline, end what is past its own."""
        limits = self.settings
        shortest = min(limits.header_time_s, limits.body_time_s, limits.idle_time_s, limits.write_time_s)
        while True:
            await asyncio.sleep(min(1.0, shortest / 4))
            now = asyncio.get_running_loop().time()
            for connection in [*self._placed, *self._refused]:
                connection.check(now)


class Connection(HttpToolsProtocol):
    """One connection: uvicorn's, which says in which phase of a request it is, since when, and how much has come.

    head     until the last header of a request, from its first byte or from the connection's beginning
    body     until the body's last byte
    answer   until the answer's last byte; a request that is sent before that is not read, and the connection closes
             after the answer: the client sends it again on another (RFC 9112, 9.3.2)
    idle     until the next request
    """

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connections = connections
        self._settings = connections.settings
        self._phase: Phase = "head"
        self._since = self.loop.time()
        self._behind_since: float | None = None
        self._head_bytes = 0
        self._unsaid_bytes = 0
        self._discarded_bytes = 0
        self._begun = False
        self._error: ApiError | None = None
        self._deaf = False

    # What the transport calls.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._connections.enter(self):
            self.drop("full")

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._begun = True
        self._unsaid_bytes += len(data)
        super().data_received(data)
        # Of a header, trailer or chunk that has no end the parser says nothing, and keeps it.
        if self._unsaid_bytes > self._settings.max_header_bytes:
            self._refuse(_head_too_large(f"{self._settings.max_header_bytes} bytes of headers"))

    # What the parser calls. It turns what is raised into its own error, on which uvicorn calls send_400_response.
    def on_message_begin(self) -> None:
        if self._phase == "answer":
            raise self._stop(ApiError(400, "a request came before the answer to the last one"))
        self._head_bytes = self._unsaid_bytes = self._discarded_bytes = 0
        self._enter("head")
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._unsaid_bytes = 0
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unsaid_bytes = 0
        self._count_head(len(name) + len(value) + 4)  # ": " and the end of the line
        super().on_header(name, value)
        if len(self.headers) > self._settings.max_headers:
            raise self._stop(_head_too_large(f"{self._settings.max_headers} headers"))

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._enter("body")

    def on_body(self, body: bytes) -> None:
        self._unsaid_bytes = 0
        super().on_body(body)
        if self.cycle.response_complete:
            # It was refused and is still coming. Closing at once would take the answer from a client that has not
            # read it yet, so it may send as much as an accepted one.
            self._discarded_bytes += len(body)
            if self._discarded_bytes > self._settings.max_body_bytes:
                self.drop("body")

    def on_message_complete(self) -> None:
        self._unsaid_bytes = 0
        super().on_message_complete()
        self._enter("idle" if self.cycle.response_complete else "answer")

    # What uvicorn calls.
    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._phase == "answer":
            self._enter("idle")

    def send_400_response(self, msg: str) -> None:
        malformed = ApiError(400, "this is not a request in HTTP/1.1", code="malformed_request")
        self._refuse(self._error or malformed)

    # What the connections call.
    def check(self, now: float) -> None:
        """End it if it is past a deadline."""
        limits = self._settings
        if not self.transport.get_write_buffer_size():
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since > limits.write_time_s:
            self.drop("write")
            return
        waited_s = now - self._since
        if self._phase == "head" and waited_s > limits.header_time_s:
            message = f"the request's headers did not arrive within {limits.header_time_s:g} s"
            self._refuse(ApiError(408, message, code="request_timeout"), "head")
        elif self._phase == "idle" and waited_s > limits.idle_time_s:
            self.transport.close()
        elif self._phase == "body" and waited_s > limits.body_time_s and self.cycle.response_complete:
            # Before the answer it is BodyLimit that has the time, because it can say so.
            self.drop("body")

    def drop(self, reason: Drop) -> None:
        """End it at once, with whatever is unsent."""
        self._deaf = True
        self._connections.on_drop(reason)
        self._connections.leave(self)
        self.transport.abort()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since = self.loop.time()
        if phase == "answer":
            self._connections.answers(self)
        else:
            self._connections.waits(self)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._settings.max_header_bytes:
            raise self._stop(_head_too_large(f"{self._settings.max_header_bytes} bytes of headers"))

    def _stop(self, error: ApiError) -> ApiError:
        self._error = error
        return error

    def _refuse(self, error: ApiError, reason: Drop = "malformed") -> None:
        """Answer without the app, where no other answer has begun, and close."""
        if self.transport.is_closing():
            return
        self._deaf = True
        if self._phase == "answer":
            # The answer that is under way comes first, and there is none after it.
            self._connections.on_drop("pipelined")
            self.cycle.keep_alive = False
            return
        self._connections.on_drop(reason)
        # Who has connected and said nothing has not asked for an answer.
        if self._begun and not (self._phase == "body" and self.cycle.response_started):
            self.transport.write(_bytes_of(error))
        self.transport.close()


def _head_too_large(most: str) -> ApiError:
    return ApiError(431, f"the request has more than {most}", code="headers_too_large")


async def _full(scope: Any, receive: Any, send: Any) -> None:
    error = ApiError(
        429, "every connection of the server is busy", code="no_connection", headers={"Connection": "close"}
    )
    await RequestIds(error.response())(scope, receive, send)


def _bytes_of(error: ApiError) -> bytes:
    """The whole answer as it goes over the wire."""
    body = json.dumps(error.body).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        "x-request-id": uuid.uuid4().hex,
        **error.headers,
    }
    lines = [f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
