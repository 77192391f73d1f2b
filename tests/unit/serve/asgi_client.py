"""Requests to an ASGI application without a socket: whole, or as a connection that the test closes when it likes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

JSON = {"content-type": "application/json"}


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """What an error says, which always has these four."""
        (error,) = self.json.values()
        assert error.keys() == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]
        return error

    @property
    def events(self) -> list[Any]:
        """The data of each event, JSON but for [DONE]; comments are left out."""
        frames = self.body.decode().split("\n\n")
        assert frames.pop() == ""
        data = [frame.removeprefix("data: ") for frame in frames if not frame.startswith(":")]
        return [item if item == "[DONE]" else json.loads(item) for item in data]


class Connection:
    """One request. ``run`` it as a task; ``close`` is the client going away."""

    def __init__(
        self,
        app: Any,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        target, _, query = path.partition("?")
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(target),
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"test"), *((name.encode(), value.encode()) for name, value in pairs)],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": (state := {}),
        }
        self.state: dict[str, Any] = state
        self._app = app
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self.sent: list[dict[str, Any]] = []
        self.changed = asyncio.Event()

    async def run(self) -> Reply:
        await self._app(self._scope, self._incoming.get, self._send)
        start, *bodies = self.sent
        return Reply(
            start["status"],
            {name.decode(): value.decode() for name, value in start["headers"]},
            b"".join(body.get("body", b"") for body in bodies),
        )

    def close(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def has_sent(self, content: bytes) -> None:
        """Until a body with this has been sent."""
        while not any(content in message.get("body", b"") for message in self.sent):
            self.changed.clear()
            await self.changed.wait()

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self.changed.set()


async def ask(app: Any, method: str, path: str, content: Any = None, **settings: Any) -> Reply:
    """The reply to one request; ``content`` is its JSON."""
    if content is not None:
        settings["body"] = json.dumps(content).encode()
        settings.setdefault("headers", JSON)
    reply: Reply = await Connection(app, method, path, **settings).run()
    return reply
