"""Slow, silent, greedy and malformed clients, on real sockets. No test measures time: what is waited for happens."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
from tiny_service import Running, answer, parsed, request, rest, running, until

ECHO = request("POST", "/echo", b"12345")
HELD = request("GET", "/held")
# So short that a test needs not wait for long, where the other deadlines are those of a day.
SHORT_S = 0.1


def echoes(client: socket.socket) -> bool:
    client.sendall(ECHO)
    given = answer(client)
    return given.status == 200 and given.body == b"5"


# --- heads --------------------------------------------------------------------------------------------------------


def test_a_head_that_does_not_end_is_told_so() -> None:
    with running(header_time_s=SHORT_S) as server, server.connection() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: h")
        given = parsed(rest(client))
        assert given.status == 408
        assert given.code == "request_timeout"
        assert given.headers["connection"] == "close"
        assert given.headers["x-request-id"]
        assert server.dropped("head") == 1


def test_who_says_nothing_gets_nothing() -> None:
    with running(header_time_s=SHORT_S) as server, server.connection() as client:
        assert rest(client) == b""


def test_a_second_head_has_its_own_time() -> None:
    with running(header_time_s=SHORT_S) as server, server.connection() as client:
        assert echoes(client)
        client.sendall(ECHO[:20])
        assert parsed(rest(client)).status == 408


def test_bytes_one_by_one_do_not_gain_time() -> None:
    with running(header_time_s=SHORT_S) as server, server.connection() as client:
        received = b""
        client.settimeout(0.01)
        client.sendall(b"GET /echo HTTP/1.1\r\n")
        for _ in range(1000):
            try:
                client.sendall(b"X: y\r\n")
                received += client.recv(65536)
                if received:
                    break
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        else:
            raise AssertionError("it may go on for ever")
        assert server.dropped("head") == 1


def test_a_large_head_is_refused_in_one_piece_and_in_many() -> None:
    with running(max_header_bytes=500) as server:
        for piece in (10_000, 50):
            with server.connection() as client:
                head = request("GET", "/echo", X_Long="y" * 600)
                for start in range(0, len(head), piece):
                    client.sendall(head[start : start + piece])
                given = parsed(rest(client))
                assert given.status == 431, piece
                assert given.code == "headers_too_large"
        with server.connection() as client:
            client.sendall(request("GET", "/echo", X_Short="y" * 300))
            assert answer(client).status == 200


@pytest.mark.parametrize("begins", [b"GET /", b"GET /x HTTP/1.1\r\nX: ", b"GET /x HTTP/1.1\r\nX"])
def test_a_line_without_an_end_is_refused(begins: bytes) -> None:
    with running(max_header_bytes=500) as server, server.connection() as client:
        client.sendall(begins)
        until(lambda: _took(client, b"y" * 400))
        assert parsed(rest(client)).status == 431


def _took(client: socket.socket, more: bytes) -> bool:
    """Send more; whether the server has answered."""
    try:
        client.sendall(more)
        client.setblocking(False)
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        client.settimeout(30)


def test_too_many_headers_are_refused() -> None:
    with running(max_headers=10) as server:
        with server.connection() as client:
            client.sendall(request("GET", "/echo", **{f"X{i}": "y" for i in range(9)}))
            assert answer(client).status == 200
        with server.connection() as client:
            client.sendall(request("GET", "/echo", **{f"X{i}": "y" for i in range(10)}))
            given = parsed(rest(client))
            assert given.status == 431
            assert "more than 10 headers" in given.body.decode()


def test_trailers_count_as_headers() -> None:
    chunked = request("POST", "/echo", Transfer_Encoding="chunked")
    with running(max_header_bytes=500, max_headers=10) as server:
        with server.connection() as client:
            client.sendall(chunked + b"3\r\nabc\r\n0\r\n" + b"X: y\r\n" * 10 + b"\r\n")
            assert parsed(rest(client)).status == 431
        with server.connection() as client:
            client.sendall(chunked + b"3\r\nabc\r\n0\r\nX: ")
            until(lambda: _took(client, b"y" * 400))
            assert parsed(rest(client)).status == 431
        with server.connection() as client:
            client.sendall(chunked + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n")
            assert answer(client).body == b"3"


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"CONNECT here:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_as_everything_else(sent: bytes) -> None:
    with running() as server, server.connection() as client:
        client.sendall(sent)
        given = parsed(rest(client))
        assert given.status == 400
        assert given.code == "malformed_request"
        assert given.headers["x-request-id"]
        assert server.dropped("malformed") == 1


# --- bodies -------------------------------------------------------------------------------------------------------


def test_a_body_that_does_not_end_is_told_so() -> None:
    with running(body_time_s=SHORT_S) as server, server.connection() as client:
        client.sendall(ECHO[:-1])
        assert parsed(rest(client)).status == 408
        assert server.service.ended == [], "no route was called"


def test_too_large_a_body_is_refused_and_the_connection_stays() -> None:
    with running(max_body_bytes=1000) as server, server.connection() as client:
        client.sendall(request("POST", "/echo", b"x" * 1001))
        assert answer(client).status == 413
        assert echoes(client)
        client.sendall(
            request("POST", "/echo", Transfer_Encoding="chunked") + b"3e9\r\n" + b"x" * 1001 + b"\r\n"
        )
        assert answer(client).status == 413
        client.sendall(b"0\r\n\r\n")
        assert echoes(client)


def test_after_a_refusal_no_more_is_taken_than_from_others() -> None:
    keys = {"api_keys": ("sk-right",)}
    with running(max_body_bytes=1000, **keys) as server, server.connection() as client:
        client.sendall(request("POST", "/echo", Content_Length="100000000"))
        assert answer(client).status == 401
        client.sendall(b"x" * 1000)
        until(lambda: _took(client, b"x" * 10))
        assert server.dropped("body") == 1


def test_after_a_refusal_the_rest_has_the_body_s_time() -> None:
    with running(body_time_s=SHORT_S, api_keys=("sk-right",)) as server, server.connection() as client:
        client.sendall(request("POST", "/echo", Content_Length="1000"))
        assert parsed(rest(client)).status == 401
        assert server.dropped("body") == 1


def test_a_client_that_goes_away_reaches_no_route() -> None:
    with running() as server:
        with server.connection() as client:
            client.sendall(ECHO[:-1])
        until(lambda: len(server.server.connections) == 0)
        assert server.service.ended == []


# --- answers ------------------------------------------------------------------------------------------------------


def test_who_does_not_read_loses_the_connection() -> None:
    with running(write_time_s=SHORT_S) as server, server.connection() as client:
        client.sendall(request("GET", "/stream"))
        until(lambda: server.service.ended == ["/stream"])
        assert server.dropped("write") == 1
        until(lambda: len(server.server.connections) == 0)


def test_a_request_before_the_last_answer_is_left_for_another_connection() -> None:
    with running() as server, server.connection() as client:
        client.sendall(HELD)
        until(lambda: server.service.released is not None and len(server.server.connections) == 1)
        client.sendall(ECHO)
        until(lambda: server.dropped("pipelined") == 1)
        server.service.release()
        received = rest(client)
        assert received.count(b"HTTP/1.1 200") == 1, "the first is answered, the second is not"
        assert server.service.ended == ["/held"]


def test_an_idle_connection_ends_and_empty_lines_do_not_hold_it() -> None:
    for held_by in (b"", b"\r\n"):
        with running(idle_time_s=SHORT_S) as server, server.connection() as client:
            assert echoes(client)
            client.sendall(held_by)
            assert rest(client) == b""
            until(lambda server=server: len(server.server.connections) == 0)


def test_many_requests_go_over_one_connection() -> None:
    with running() as server, server.connection() as client:
        for _ in range(20):
            assert echoes(client)
        assert len(server.server.connections) == 1


# --- places -------------------------------------------------------------------------------------------------------


def fill(server: Running, stack: ExitStack, count: int, sent: bytes) -> list[socket.socket]:
    clients = []
    for number in range(1, count + 1):
        clients.append(stack.enter_context(server.connection()))
        clients[-1].sendall(sent)
        until(lambda number=number: len(server.server.connections) >= number)
    return clients


@pytest.mark.parametrize("slow", [b"", b"GET /echo HTTP/1.1\r\n", ECHO[:-1]], ids=["silent", "head", "body"])
def test_who_has_been_slow_longest_makes_room(slow: bytes) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(running(max_connections=3))
        first, second, third = fill(server, stack, 3, slow)
        newcomer = stack.enter_context(server.connection())
        assert echoes(newcomer)
        assert rest(first) == b""
        assert server.dropped("place") == 1
        assert len(server.server.connections) == 3
        # The newcomer is idle now, and younger than these two.
        another = stack.enter_context(server.connection())
        assert echoes(another)
        assert rest(second) == b""
        assert echoes(newcomer)
        del third


def test_who_is_being_answered_keeps_the_place() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(running(max_connections=3))
        held = fill(server, stack, 2, HELD)
        (slow,) = fill_more(server, stack, 1, b"GET")
        assert echoes(stack.enter_context(server.connection()))
        assert rest(slow) == b""
        server.service.release()
        assert [answer(client).status for client in held] == [200, 200]


def fill_more(server: Running, stack: ExitStack, count: int, sent: bytes) -> list[socket.socket]:
    """After those that are being answered are known to be so."""
    until(lambda: server.service._running == len(server.server.connections))
    return fill(server, stack, count, sent)


def test_when_all_are_being_answered_a_newcomer_is_told_so() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(running(max_connections=2))
        held = fill(server, stack, 2, HELD)
        until(lambda: server.service._running == 2)
        for _ in range(3):
            with server.connection() as newcomer:
                newcomer.sendall(ECHO)
                given = parsed(rest(newcomer))
                assert given.status == 429
                assert given.code == "no_connection"
                assert given.headers["retry-after"]
                assert given.headers["x-request-id"]
        server.service.release()
        assert [answer(client).status for client in held] == [200, 200]
        assert echoes(stack.enter_context(server.connection()))


def test_not_even_refusals_are_without_number() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(running(max_connections=1))
        (held,) = fill(server, stack, 1, HELD)
        until(lambda: server.service._running == 1)
        silent = [stack.enter_context(server.connection()) for _ in range(70)]
        until(lambda: server.dropped("full") >= 6)
        assert rest(silent[-1]) == b""
        server.service.release()
        assert answer(held).status == 200
