"""The limit of a request's body: whole within its size and time before anything is done with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gptwo.serve.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gptwo.serve.settings import ServeSettings

# Bodies up to this size are always let in: a flood of slow large ones must not shut out the ordinary. uvicorn buffers
# as much of each connection in any case.
_ORDINARY_BYTES = 64 << 10
_LARGE_BODIES_BYTES = 256 << 20
"""Of all larger bodies together that are held at a time: on their way, or until their requests are answered."""


class BodyLimit:
    """Reads the whole body, then calls the app, which finds it in one piece.

    413 past ``max_body_bytes``, at once where the length is announced; 408 past ``body_time_s``; 503 when the bodies of
    others fill the memory meant for them. A client that goes away meanwhile is forgotten: the app never hears of it.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._most = settings.max_body_bytes
        self._time_s = settings.body_time_s
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._whole_body(scope, receive)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        if body is not None:
            try:
                await self._app(scope, _replayed(body, receive), send)
            finally:
                self._held_bytes -= len(body)

    async def _whole_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """None when the client has gone. A body that is given back is still counted."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._most:
                raise self._too_large(f"{int(value)} bytes")
        body, is_whole = bytearray(), False
        try:
            async with asyncio.timeout(self._time_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunk = message.get("body", b"")
                    body += chunk
                    self._held_bytes += len(chunk)
                    self._check_size(len(body))
                    if not message.get("more_body", False):
                        is_whole = True
                        return bytes(body)
        except TimeoutError:
            raise ApiError(
                408,
                f"the request's body did not arrive within {self._time_s:g} s",
                code="request_timeout",
                # What is still on its way cannot be told from a next request.
                headers={"Connection": "close"},
            ) from None
        finally:
            if not is_whole:
                self._held_bytes -= len(body)

    def _check_size(self, size: int) -> None:
        if size > self._most:
            raise self._too_large(f"more than {self._most} bytes")
        if size > _ORDINARY_BYTES and self._held_bytes > _LARGE_BODIES_BYTES:
            raise ApiError(503, "too many large requests are on their way; try again", code="overloaded")

    def _too_large(self, got: str) -> ApiError:
        return ApiError(
            413,
            f"the request's body has {got}; expected at most {self._most}; send fewer prompts at a time",
            code="request_too_large",
        )


def _replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` of an app that begins to read only now: first the body, then what happens to the connection."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
