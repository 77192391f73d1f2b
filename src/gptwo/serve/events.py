"""Server-sent events: frames as they come, comments on silence, and an end when the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from gptwo.serve.errors import api_error
from gptwo.serve.offload import encode

Result = TypeVar("Result")

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

# JSON leaves these as they are, and some clients (httpx's iter_lines) take them for ends of lines.
_LINE_ENDS = [(c.encode(), f"\\u{ord(c):04x}".encode()) for c in "\x85\u2028\u2029"]


def event(data: Mapping[str, Any]) -> bytes:
    """One frame, of one line."""
    frame = b"data: " + encode(data) + b"\n\n"
    for plain, escaped in _LINE_ENDS:
        frame = frame.replace(plain, escaped)
    return frame


async def gone(receive: Receive) -> None:
    """Returns when the client has closed the connection. The body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result | None:
    """What ``work`` gives; None, with ``work`` cancelled, when the client goes before."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        await _stop(working, leaving)


class EventStream(Response):
    """The reply that sends ``frames``, and calls ``on_end`` then: also when the client goes, or the server stops.

    A comment is sent after every ``ping_s`` of silence, so that no proxy takes the connection for dead. An error of the
    frames is a last frame with OpenAI's body, and no [DONE] follows.
    """

    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncGenerator[bytes, None], *, on_end: Callable[[], None], ping_s: float
    ) -> None:
        # Proxies that buffer replies would hold the text back.
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        # Not left to the generator's own finally: one that was never begun does not run it.
        self._on_end = on_end
        self._ping_s = ping_s
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._on_end()
            await _stop(sending, leaving)
            await self._frames.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        pinging = asyncio.ensure_future(self._ping(send))
        try:
            while (frame := await self._next_frame()) is not None:
                await self._send(send, frame)
        finally:
            await _stop(pinging)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next_frame(self) -> bytes | None:
        try:
            return await anext(self._frames, None)
        except Exception as error:
            return event(api_error(error).body)

    async def _ping(self, send: Send) -> None:
        now = asyncio.get_running_loop().time
        self._last_sent = now()
        while True:
            await asyncio.sleep(self._last_sent + self._ping_s - now())
            if now() >= self._last_sent + self._ping_s:
                await self._send(send, PING)

    async def _send(self, send: Callable[[dict[str, Any]], Awaitable[None]], frame: bytes) -> None:
        self._last_sent = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": frame, "more_body": True})


async def _stop(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
