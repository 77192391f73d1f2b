"""The body's limit, without a socket. With one: test_connections.py."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgi import Recorder, acall, body, call, header, scope, status

from gptwo.serve import limits
from gptwo.serve.limits import BodyLimit
from gptwo.serve.settings import ServeSettings


def limited(app: Any, **settings: Any) -> BodyLimit:
    return BodyLimit(app, ServeSettings(**{"max_body_bytes": 10, **settings}))


def announced(length: str) -> Any:
    return scope(headers=[(b"content-length", length.encode())])


def test_a_body_comes_whole_and_what_follows_it_as_it_is() -> None:
    read = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        read.extend([await receive(), await receive()])

    call(limited(app), scope(), [*body(b"abc", b"", b"defghij"), {"type": "http.disconnect"}])
    assert read == [
        {"type": "http.request", "body": b"abcdefghij", "more_body": False},
        {"type": "http.disconnect"},
    ]


def test_an_announced_length_is_refused_before_anything_is_read() -> None:
    app = Recorder()
    sent = call(limited(app), announced("11"))
    assert status(sent) == 413
    assert "11 bytes; expected at most 10" in json.loads(sent[1]["body"])["error"]["message"]
    assert app.scopes == []
    assert status(call(limited(app), announced("10"), body(b"0123456789"))) == 200


def test_one_that_is_not_announced_is_refused_at_the_limit() -> None:
    app = Recorder()
    assert status(call(limited(app), scope(), body(b"01234", b"56789"))) == 200
    app = Recorder()
    # The last piece never comes: it is not waited for.
    assert status(call(limited(app), scope(), body(b"01234", b"567890", b"")[:2])) == 413
    assert app.scopes == []


def test_a_slow_one_is_told_so() -> None:
    app = Recorder()
    sent = call(limited(app, body_time_s=0.05), scope(), body(b"0", b"1")[:1])
    assert status(sent) == 408
    assert header(sent, "connection") == "close"
    assert app.scopes == []


def test_the_time_is_for_the_body_alone() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await Recorder()(scope, receive, send)

    assert status(call(limited(slow, body_time_s=0.05), scope(), body(b"0"))) == 200


def test_of_a_client_that_goes_away_the_app_never_hears() -> None:
    app = Recorder()
    assert call(limited(app), scope(), [*body(b"0", b"")[:1], {"type": "http.disconnect"}]) == []
    assert app.scopes == []


def test_large_bodies_share_a_memory_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_ORDINARY_BYTES", 4)
    monkeypatch.setattr(limits, "_LARGE_BODIES_BYTES", 10)

    async def all_of_it() -> None:
        limit = limited(Recorder())
        slow = [asyncio.create_task(acall(limit, scope(), body(b"01234567", b"")[:1])) for _ in range(1)]
        await asyncio.sleep(0)
        refused = await acall(limit, scope(), body(b"01234"))
        assert status(refused) == 503
        assert header(refused, "retry-after") is not None
        assert status(await acall(limit, scope(), body(b"0123"))) == 200, "an ordinary one always passes"
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert status(await acall(limit, scope(), body(b"01234"))) == 200

    asyncio.run(all_of_it())


def test_a_large_body_is_counted_until_its_request_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_ORDINARY_BYTES", 4)
    monkeypatch.setattr(limits, "_LARGE_BODIES_BYTES", 10)

    async def all_of_it() -> None:
        entered, released = asyncio.Event(), asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            entered.set()
            await released.wait()
            await Recorder()(scope, receive, send)

        limit = limited(slow)
        first = asyncio.create_task(acall(limit, scope(), body(b"01234567")))
        await entered.wait()
        assert status(await acall(limit, scope(), body(b"01234"))) == 503
        released.set()
        assert status(await first) == 200
        assert status(await acall(limit, scope(), body(b"01234"))) == 200

    asyncio.run(asyncio.wait_for(all_of_it(), 30))


def test_what_is_no_request_passes() -> None:
    app = Recorder()
    call(limited(app), {"type": "lifespan"})
    assert len(app.scopes) == 1
