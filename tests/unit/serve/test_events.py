"""Server-sent events: frames, comments, errors, and the end, however it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from asgi_client import Connection

from gptwo.base.errors import ServerClosingError
from gptwo.serve.events import DONE, EventStream, event, unless_gone


class Stream:
    """An application that answers with one stream, and knows how often it has ended."""

    def __init__(self, frames: AsyncGenerator[bytes, None], *, ping_s: float = 60) -> None:
        self.ends = 0
        self._response = EventStream(frames, on_end=self._end, ping_s=ping_s)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # As a route does, whose body has been read.
        await receive()
        await self._response(scope, receive, send)

    def _end(self) -> None:
        self.ends += 1


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


async def three() -> AsyncGenerator[bytes, None]:
    for number in range(3):
        yield event({"number": number})
    yield DONE


async def for_ever() -> AsyncGenerator[bytes, None]:
    yield event({"number": 0})
    await asyncio.Event().wait()


async def failing(error: Exception) -> AsyncGenerator[bytes, None]:
    yield event({"number": 0})
    raise error


def test_all_frames_and_then_the_end() -> None:
    async def body() -> None:
        app = Stream(three())
        connection = Connection(app, "GET", "/")
        reply = await connection.run()
        assert reply.events == [{"number": 0}, {"number": 1}, {"number": 2}, "[DONE]"]
        assert connection.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["cache-control"] == "no-cache"
        assert "content-length" not in reply.headers
        assert app.ends == 1

    run(body)


def test_comments_fill_silence_alone_and_stop_with_the_stream() -> None:
    async def body() -> None:
        more = asyncio.Event()

        async def late() -> AsyncGenerator[bytes, None]:
            await more.wait()
            yield DONE

        app = Stream(late(), ping_s=0.001)
        connection = Connection(app, "GET", "/")
        running = asyncio.create_task(connection.run())
        await connection.has_sent(b": ping\n\n")
        more.set()
        reply = await running
        assert reply.body.endswith(DONE)
        sent = len(connection.sent)
        await asyncio.sleep(0.01)
        assert len(connection.sent) == sent

    run(body)


def test_a_client_that_goes_ends_the_stream() -> None:
    async def body() -> None:
        app = Stream(for_ever())
        connection = Connection(app, "GET", "/")
        running = asyncio.create_task(connection.run())
        await connection.has_sent(b"data")
        connection.close()
        await running
        assert app.ends == 1

    run(body)


def test_a_client_that_has_gone_before_the_first_frame_ends_it_too() -> None:
    async def body() -> None:
        app = Stream(for_ever())
        connection = Connection(app, "GET", "/")
        connection.close()
        await connection.run()
        assert app.ends == 1

    run(body)


def test_a_server_that_stops_ends_the_stream() -> None:
    async def body() -> None:
        app = Stream(for_ever())
        connection = Connection(app, "GET", "/")
        running = asyncio.create_task(connection.run())
        await connection.has_sent(b"data")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert app.ends == 1

    run(body)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ServerClosingError("it goes down"), "server_error", "it goes down"),
        (RuntimeError("the insides"), "server_error", "the server failed"),
    ],
)
def test_an_error_is_the_last_frame(error: Exception, kind: str, message: str) -> None:
    async def body() -> None:
        app = Stream(failing(error))
        reply = await Connection(app, "GET", "/").run()
        first, last = reply.events
        assert first == {"number": 0}
        assert last["error"]["type"] == kind
        assert message in last["error"]["message"]
        assert "insides" not in last["error"]["message"]
        assert app.ends == 1

    run(body)


def test_work_goes_on_until_it_is_done_or_nobody_waits() -> None:
    async def body() -> None:
        incoming: asyncio.Queue[dict[str, str]] = asyncio.Queue()

        async def soon() -> int:
            return 5

        async def fails() -> int:
            raise ServerClosingError("it goes down")

        cancelled = asyncio.Event()

        async def late() -> int:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return 5

        assert await unless_gone(incoming.get, soon()) == 5
        with pytest.raises(ServerClosingError):
            await unless_gone(incoming.get, fails())
        waiting = asyncio.create_task(unless_gone(incoming.get, late()))
        await asyncio.sleep(0)
        incoming.put_nowait({"type": "http.disconnect"})
        assert await waiting is None
        assert cancelled.is_set()

    run(body)
