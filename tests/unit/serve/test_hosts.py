"""By which names a server without a key is called."""

from __future__ import annotations

import pytest
from asgi import Recorder, body, call, header, scope, status

from gptwo.serve.hosts import HostCheck, is_loopback


def asked(*hosts: str) -> int:
    app = Recorder()
    sent = call(HostCheck(app), scope(headers=[(b"host", host.encode()) for host in hosts]), body(b""))
    assert bool(app.scopes) == (status(sent) == 200)
    assert status(sent) == 200 or header(sent, "x-request-id")
    return status(sent)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8000",
        "127.0.0.1",
        "localhost:8000",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "[::1]:8000",
        "[::1]",
    ],
)
def test_addresses_and_names_of_this_machine(host: str) -> None:
    assert asked(host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evillocalhost",
        "",
        "[evil]",
    ],
)
def test_no_other_name(host: str) -> None:
    assert asked(host) == 403
    assert asked("localhost", host) == 403


def test_who_sends_none_is_no_browser() -> None:
    assert asked() == 200


def test_which_servers_are_of_this_machine_alone() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.2", "example.org")] == [False] * 4
