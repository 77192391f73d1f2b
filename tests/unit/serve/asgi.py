"""An ASGI application called without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Recorder:
    """An app that notes what it was called with, and what it was given to read, and answers 200."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.read: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] != "http":
            return
        self.read.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})


def scope(path: str = "/", headers: Iterable[tuple[bytes, bytes]] = (), **more: Any) -> Scope:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": list(headers),
        **more,
    }


def body(*chunks: bytes) -> list[Message]:
    """The messages of a body that comes in these pieces."""
    last = len(chunks) - 1
    return [
        {"type": "http.request", "body": chunk, "more_body": number < last}
        for number, chunk in enumerate(chunks)
    ]


def call(app: ASGIApp, asked: Scope, messages: Iterable[Message] = ()) -> list[Message]:
    """What the app sends. After the last of ``messages`` the client says nothing more."""
    return asyncio.run(acall(app, asked, messages))


async def acall(app: ASGIApp, asked: Scope, messages: Iterable[Message] = ()) -> list[Message]:
    sent: list[Message] = []
    left = list(messages)

    async def receive() -> Message:
        if left:
            return left.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await app(asked, receive, send)
    return sent


def status(sent: list[Message]) -> int:
    return int(sent[0]["status"])


def header(sent: list[Message], name: str) -> str | None:
    return next((v.decode() for n, v in sent[0]["headers"] if n.decode().lower() == name), None)
