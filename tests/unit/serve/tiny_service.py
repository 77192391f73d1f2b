"""A service without a model, behind the same connections, log, keys and limits, on a real socket; and a raw client."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from gptwo.serve.errors import ApiError, RequestIds
from gptwo.serve.keys import KeyCheck
from gptwo.serve.limits import BodyLimit
from gptwo.serve.listener import open_socket
from gptwo.serve.logs import Log
from gptwo.serve.metrics import Metrics
from gptwo.serve.server import Server
from gptwo.serve.settings import ServeSettings

# Of every wait in a test: longer than any machine needs, so that only a fault is ever met.
LONG_S = 30


class TinyService:
    """POST /echo says how much came. GET /held answers when ``release`` is called, GET /stream goes on until then."""

    def __init__(self, settings: ServeSettings, build: Callable[[], None] = lambda: None) -> None:
        self.build = build
        self.app = RequestIds(KeyCheck(BodyLimit(self._route, settings), settings.api_keys))
        self.released = asyncio.Event()
        self.closed_with: float | None = None
        self.ended: list[str] = []
        self._open = False
        self._running = 0

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open = True

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self.released.set)

    async def close(self, grace_s: float) -> None:
        self._open = False
        self.closed_with = grace_s
        try:
            async with asyncio.timeout(grace_s):
                while self._running:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            self.released.set()

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._open:
            await ApiError(503, "not now", code="closed").response()(scope, receive, send)
            return
        self._running += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self._running -= 1
            self.ended.append(scope["path"])

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        if scope["path"] == "/fault":
            raise RuntimeError("a fault\nof ours")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-route", b"tiny")]})
        if scope["path"] == "/stream":
            while not self.released.is_set() and (await self._still_there(receive)):
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        elif scope["path"] == "/held":
            await self.released.wait()
        state = scope["state"]
        state["log"].update(prompt_tokens=len(body), prompt="secret words")
        await send({"type": "http.response.body", "body": str(len(body)).encode()})

    async def _still_there(self, receive: Receive) -> bool:
        try:
            async with asyncio.timeout(0.001):
                return (await receive())["type"] != "http.disconnect"
        except TimeoutError:
            return True


@dataclass
class Running:
    server: Server
    service: TinyService
    metrics: Metrics
    address: tuple[str, int]
    log: io.StringIO
    thread: threading.Thread
    failure: list[BaseException] = field(default_factory=list)

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.address, timeout=LONG_S) as client:
            yield client

    def dropped(self, reason: str) -> float:
        """How many connections the server ended for that reason."""
        text = self.metrics.exposition()[0].decode()
        lines = [line for line in text.splitlines() if line.startswith("gptwo:connections_dropped_total")]
        return sum(float(line.rpartition(" ")[2]) for line in lines if f'reason="{reason}"' in line)

    def lines(self) -> list[dict[str, Any]]:
        """The log so far; whole once the server has ended."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@contextmanager
def running(
    build: Callable[[], None] = lambda: None, *, wait: bool = True, **settings: Any
) -> Iterator[Running]:
    """A server in a thread, on a free port, stopped at the end."""
    chosen = ServeSettings(**{"port": 0, "grace_s": 0.0, **settings})
    stream = io.StringIO()
    log, metrics = Log(stream, chosen.log_format), Metrics("tiny")
    service = TinyService(chosen, build)
    server = Server(chosen, log=log, metrics=metrics)
    listener = open_socket(chosen)
    address = listener.getsockname()[:2]
    ready = threading.Event()
    failure: list[BaseException] = []

    def serve() -> None:
        try:
            asyncio.run(server.run(listener, service, ready=ready.set))
        except BaseException as error:
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        if wait:
            assert ready.wait(LONG_S)
        yield Running(server, service, metrics, address, stream, thread, failure)
    finally:
        server.stop()
        thread.join(LONG_S)
        log.close()
        assert not thread.is_alive()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of an error."""
        return str(json.loads(self.body)["error"]["code"])


def request(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """The bytes of a request; ``content_type="…"`` is the header Content-Type."""
    fields = {"Host": "here", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body is not None:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + (body or b"")


def rest(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    received = b""
    try:
        while more := client.recv(65536):
            received += more
    except ConnectionResetError:
        pass
    return received


def answer(client: socket.socket) -> Answer:
    """One answer, the connection left open."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = client.recv(1)
        assert more, f"closed after {received!r}"
        received += more
    answer = parsed(received)
    if answer.headers.get("transfer-encoding") == "chunked":
        body = b""
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += client.recv(1)
        for line in received.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]:
            body += line
        return Answer(answer.status, answer.headers, body)
    body = b""
    while len(body) < int(answer.headers["content-length"]):
        body += client.recv(1)
    return Answer(answer.status, answer.headers, body)


def parsed(received: bytes) -> Answer:
    """The first answer in what was received; its body as it came."""
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in fields)
    return Answer(int(status.split()[1]), headers, body)


def until(condition: Callable[[], bool]) -> None:
    """Return when it holds; a test that waits for longer than ever needed has failed."""
    woken = threading.Event()
    for _ in range(LONG_S * 100):
        if condition():
            return
        woken.wait(0.01)
    raise AssertionError("it never came to hold")
