"""The log's lines: whole, one for each request, and nobody else's."""

from __future__ import annotations

import io
import json
import logging
import threading
from typing import Any

import pytest
from tiny_service import answer, request, rest, running, until

from gptwo.serve import logs
from gptwo.serve.logs import Log

FORGED = '{"time": "2026-01-01", "event": "request", "status": 200}'


def written(line_format: Any, **facts: Any) -> str:
    stream = io.StringIO()
    log = Log(stream, line_format)
    log.line("request", **facts)
    log.close()
    return stream.getvalue()


@pytest.mark.parametrize("line_format", ["json", "text"])
@pytest.mark.parametrize(
    "hostile",
    [
        f"a\n{FORGED}",
        f"a\r{FORGED}",
        f"a\u2028{FORGED}",
        f"a\x85{FORGED}",
        "a\x1b[2J\x07\x00",
        'a" status=200 "b',
        "\ud800 half",
        "\x7f\u202e",
    ],
)
def test_nothing_begins_or_ends_a_line(line_format: str, hostile: str) -> None:
    line = written(line_format, path=hostile)
    assert len(line.splitlines()) == 1
    assert line.endswith("\n")
    assert all(" " <= character <= "~" for character in line[:-1])
    if line_format == "json":
        assert json.loads(line)["path"] == hostile


def test_a_value_cannot_look_like_two() -> None:
    words = written("text", path='x status=200 y="', status=404).split(" ")
    assert [word for word in words if word.startswith("status=")] == ["status=404"] or json.dumps(
        'x status=200 y="'
    ) in " ".join(words)
    assert written("text", route="/v1/models", status=200, empty=None).endswith(
        " request route=/v1/models status=200\n"
    )


def test_long_values_are_cut_and_say_so() -> None:
    line = json.loads(written("json", path="x" * 5000, prompt="y" * 5000, many=list(range(5000))))
    assert line["path"] == "x" * 500 + "… (5000 characters)"
    assert line["prompt"] == "y" * 5000
    assert line["many"].endswith(" characters)")


class Stuck(io.StringIO):
    """A stream whose reader has stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.freed = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.freed.wait()
        return super().write(text)


def test_a_reader_who_stops_holds_up_nobody_and_what_is_left_out_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_MOST_WAITING", 3)
    stream = Stuck()
    log = Log(stream)
    log.line("first")
    assert stream.entered.wait(30)
    for number in range(10):
        log.line("more", number=number)
    stream.freed.set()
    until(lambda: stream.getvalue().count("\n") == 4)
    log.line("last")
    log.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["first", "more", "more", "more", "last"]
    assert lines[-1]["lines_left_out"] == 7


def test_a_stream_that_is_gone_ends_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    log = Log(Gone())
    log.line("first")
    log.line("second")
    log.close()


def test_python_s_own_log_comes_in_lines_too() -> None:
    stream = io.StringIO()
    log = Log(stream)
    before = list(logging.getLogger("gptwo").handlers)
    with log.records():
        logger = logging.getLogger("gptwo.serve.anything")
        logger.info("not this")
        try:
            raise ValueError("one\ntwo")
        except ValueError:
            logger.exception("a fault\n%s", FORGED)
    logging.getLogger("gptwo.serve.anything").warning("after it")
    log.close()
    assert logging.getLogger("gptwo").handlers == before
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record["level"] == "error"
    assert record["message"] == f"a fault\n{FORGED}"
    assert "ValueError: one\ntwo" in record["traceback"]


# --- of a running server ------------------------------------------------------------------------------------------


def test_each_request_has_a_line() -> None:
    with running() as server:
        with server.connection() as client:
            client.sendall(request("POST", "/echo?key=in-the-query", b"12345", X_Request_Id="mine-7"))
            assert answer(client).headers["x-request-id"] == "mine-7"
            client.sendall(request("GET", f"/no%0a%0d{FORGED.replace(' ', '%20')}"))
            answer(client)
        with server.connection() as client:
            client.sendall(request("GET", "/fault"))
            assert answer(client).status == 500
    echo, odd, *faults, closing = server.lines()
    assert {name: echo[name] for name in ("event", "id", "client", "method", "status", "prompt_tokens")} == {
        "event": "request",
        "id": "mine-7",
        "client": "127.0.0.1",
        "method": "POST",
        "status": 200,
        "prompt_tokens": 5,
    }
    assert echo["duration_ms"] > 0
    assert echo["path"] == "/echo", "without its query, which may hold a secret"
    assert "prompt" not in echo
    assert odd["path"] == f"/no\n\r{FORGED}"
    assert odd["id"]
    assert [line["status"] for line in faults if line["event"] == "request"] == [500]
    assert any("a fault\nof ours" in line.get("traceback", "") for line in faults)
    assert closing["event"] == "closing"


def test_prompts_are_written_where_they_are_asked_for() -> None:
    with running(log_prompts=True) as server, server.connection() as client:
        client.sendall(request("POST", "/echo", b"12345"))
        answer(client)
    assert server.lines()[0]["prompt"] == "secret words"


def test_text_for_people() -> None:
    with running(log_format="text") as server, server.connection() as client:
        client.sendall(request("POST", "/echo", b"12345"))
        answer(client)
    line = server.log.getvalue().splitlines()[0]
    assert " request id=" in line
    assert " method=POST " in line
    assert " status=200 " in line


def test_a_client_that_left_before_the_answer_is_499() -> None:
    with running() as server:
        with server.connection() as client:
            client.sendall(request("POST", "/echo", b"12345")[:-1])
            until(lambda: len(server.server.connections) == 1)
        until(lambda: len(server.server.connections) == 0)
    assert server.lines()[0]["status"] == 499


def test_keys_are_never_written() -> None:
    with running(api_keys=("sk-right",)) as server, server.connection() as client:
        for key in ("sk-right", "sk-guess"):
            client.sendall(request("POST", "/echo", b"1", Authorization=f"Bearer {key}"))
            answer(client)
        client.sendall(b"Authorization: Bearer sk-right\r\n\r\n")
        rest(client)
    assert [line["status"] for line in server.lines() if line["event"] == "request"] == [200, 401]
    assert "sk-" not in server.log.getvalue()
