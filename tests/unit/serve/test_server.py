"""From the open socket to the end: loading, closing, signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tiny_service import LONG_S, answer, request, rest, running, until

from gptwo.base.errors import CheckpointError

ECHO = request("POST", "/echo", b"12345")


def test_the_socket_answers_before_the_service_is_built() -> None:
    built = threading.Event()
    with running(lambda: built.wait() and None, wait=False) as server, server.connection() as client:
        for _ in range(2):
            client.sendall(ECHO)
            given = answer(client)
            assert given.status == 503
            assert given.headers["retry-after"]
        built.set()
        until(lambda: server.service._open)
        client.sendall(ECHO)
        assert answer(client).status == 200


def test_what_cannot_be_built_ends_the_server_with_its_reason() -> None:
    def fails() -> None:
        raise CheckpointError("there is no model")

    with running(fails, wait=False) as server:
        server.thread.join(LONG_S)
        assert not server.thread.is_alive()
        assert [str(error) for error in server.failure] == ["there is no model"]
        with pytest.raises(OSError, match="refused"), server.connection():
            pass


def test_a_stop_while_it_is_built_does_not_wait_for_it() -> None:
    never = threading.Event()
    with running(lambda: never.wait() and None, wait=False) as server:
        until(lambda: server.server._loop is not None)
        server.server.stop()
        server.thread.join(LONG_S)
        assert not server.thread.is_alive()
        assert server.failure == []
    never.set()


def test_what_runs_is_finished_and_what_comes_is_refused() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(running(grace_s=LONG_S))
        first, second = (stack.enter_context(server.connection()) for _ in range(2))
        first.sendall(request("GET", "/held"))
        second.sendall(ECHO)
        assert answer(second).status == 200
        until(lambda: server.service._running == 1)
        server.server.stop()
        until(lambda: not server.service._open)
        # Over a connection that was there, and over a new one.
        second.sendall(ECHO)
        assert answer(second).status == 503
        third = stack.enter_context(server.connection())
        third.sendall(ECHO)
        assert answer(third).status == 503
        server.service.release()
        assert answer(first).status == 200
        server.thread.join(LONG_S)
        assert not server.thread.is_alive()
        assert server.service.closed_with == LONG_S
        assert rest(second) == b""
    assert server.failure == []


def test_after_the_grace_time_nobody_is_waited_for() -> None:
    with running(grace_s=0.05) as server, server.connection() as client:
        client.sendall(request("GET", "/held"))
        until(lambda: server.service._running == 1)
        server.server.stop()
        server.thread.join(LONG_S)
        assert not server.thread.is_alive()
        assert server.service.ended == ["/held"]


def test_who_never_reads_or_never_sends_does_not_hold_up_the_end() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(running(grace_s=0.05))
        unread, unsent = (stack.enter_context(server.connection()) for _ in range(2))
        unread.sendall(request("GET", "/stream"))
        unsent.sendall(ECHO[:-1])
        until(lambda: server.service._running == 1 and len(server.server.connections) == 2)
        server.server.stop()
        server.thread.join(LONG_S)
        assert not server.thread.is_alive()


def test_the_protocol_of_web_sockets_is_not_spoken() -> None:
    upgrade = {"Upgrade": "websocket", "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    with running(api_keys=("sk-right",)) as server, server.connection() as client:
        client.sendall(request("GET", "/echo", Connection="Upgrade", Sec_WebSocket_Version="13", **upgrade))
        assert answer(client).status == 401


# --- signals ------------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys, threading
from gptwo.serve.listener import open_socket, url_of
from gptwo.serve.logs import Log
from gptwo.serve.metrics import Metrics
from gptwo.serve.server import Server
from gptwo.serve.settings import ServeSettings
from tiny_service import TinyService

async def main():
    settings = ServeSettings(port=0, grace_s=60)
    build = threading.Event().wait if "loading" in sys.argv else lambda: None
    service = TinyService(settings, build)
    server = Server(settings, log=Log(sys.stderr), metrics=Metrics())
    listener = open_socket(settings)
    print(listener.getsockname()[1], flush=True)
    say = lambda: print("ready", flush=True)
    closing, service.close = service.close, lambda grace_s: told(service, closing, grace_s)
    await server.run(listener, service, ready=say)

async def told(service, closing, grace_s):
    print("closing", flush=True)
    await closing(grace_s)

asyncio.run(main())
"""


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server as a process of its own, and its port."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parent,
    ) as server:
        assert server.stdout is not None
        try:
            yield server, int(server.stdout.readline())
        finally:
            server.kill()


def told(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    return server.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_lets_it_finish_and_two_do_not(number: signal.Signals) -> None:
    import socket

    with process() as (server, port), socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as client:
        assert told(server) == "ready"
        server.send_signal(number)
        assert told(server) == "closing"
        assert server.wait(LONG_S) == 0
        assert rest(client) == b""
    with process() as (server, port), socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as client:
        assert told(server) == "ready"
        client.sendall(request("GET", "/held"))
        # The head of the answer is sent before it is held, so now it runs.
        assert client.recv(4) == b"HTTP"
        server.send_signal(number)
        assert told(server) == "closing"
        with socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as newcomer:
            newcomer.sendall(ECHO)
            assert answer(newcomer).status == 503
        server.send_signal(number)
        assert server.wait(LONG_S) == -number


def test_a_signal_while_it_loads_ends_it() -> None:
    import socket

    with process("loading") as (server, port):
        with socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as client:
            client.sendall(ECHO)
            assert answer(client).status == 503
        server.send_signal(signal.SIGTERM)
        assert server.wait(LONG_S) == 0
