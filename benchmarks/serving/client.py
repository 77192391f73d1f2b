"""A client that takes little of the machine it shares with the server: HTTP and its events read from the socket.

A request is a ``POST /v1/completions`` with ``stream``, on a connection of its own; only what the servers here answer
with is understood (HTTP/1.1, a body in chunks or of known length, events of one ``data:`` line each).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"


class RequestError(RuntimeError):
    """The server refused, or ended the stream with an error."""


@dataclass(slots=True)
class Answer:
    """What came of one request, as far as it came. Times in seconds of ``time.perf_counter``."""

    sent: float
    wanted: int
    first: float | None = None  # the first piece of text
    last: float | None = None  # the newest one
    pieces: int = 0
    text: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None

    @property
    def tokens(self) -> int:
        """By the server's own count; without one, all that were asked for, or the pieces of a text that was cut."""
        if self.usage:
            return int(self.usage["completion_tokens"])
        return self.wanted if self.finish_reason == "length" else self.pieces

    @property
    def cached_tokens(self) -> int:
        details = (self.usage or {}).get("prompt_tokens_details") or {}
        return int(details.get("cached_tokens") or 0)


async def stream(port: int, body: Mapping[str, Any], answer: Answer) -> None:
    """Ask, and fill ``answer`` piece by piece, so that a caller who is cancelled still has what came.

    Raises ``RequestError``, and ``OSError`` and ``EOFError`` where the server goes away.
    """
    async with _connection(port) as (reader, writer):
        answer.sent = time.perf_counter()
        writer.write(_request("POST", "/v1/completions", port, json.dumps({**body, "stream": True}).encode()))
        status, lines = await _response(reader)
        if status != 200:
            text = b" ".join([line async for line in lines]).decode(errors="replace")
            raise RequestError(f"status {status}: {text[:300]}")
        async for line in lines:
            if line == b"data: [DONE]":
                return
            if line.startswith(b"data: "):
                _take(json.loads(line[6:]), answer)


def _take(event: Mapping[str, Any], answer: Answer) -> None:
    if "error" in event:
        raise RequestError(f"in mid-stream: {event['error']}")
    if event.get("usage"):
        answer.usage = event["usage"]
    for choice in event.get("choices", ()):
        if choice.get("text"):
            answer.last = time.perf_counter()
            if answer.first is None:
                answer.first = answer.last
            answer.pieces += 1
            answer.text += choice["text"]
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason


async def get(port: int, path: str) -> int:
    """The status of a ``GET``."""
    async with _connection(port) as (reader, writer):
        writer.write(_request("GET", path, port))
        status, _ = await _response(reader)
        return status


@contextlib.asynccontextmanager
async def _connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _request(method: str, path: str, port: int, body: bytes = b"") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


async def _response(reader: asyncio.StreamReader) -> tuple[int, AsyncIterator[bytes]]:
    """The status, and the lines of the body."""
    status = int((await reader.readline()).split()[1])
    headers = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip().lower()
    if headers.get(b"transfer-encoding") == b"chunked":
        return status, _lines(_chunks(reader))
    return status, _lines(_whole(reader, int(headers.get(b"content-length", b"-1"))))


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while line := await reader.readline():
        size = int(line.partition(b";")[0], 16)
        part = await reader.readexactly(size + 2)
        if not size:
            return
        yield part[:-2]
    raise RequestError("the server closed the connection in mid-stream")


async def _whole(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    yield await (reader.read() if length < 0 else reader.readexactly(length))


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
    if rest:
        yield rest
