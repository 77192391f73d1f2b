"""The benchmark of serving: its client understands servers, its load is what it says, its bars are counted right."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their modules can be imported, and their history goes elsewhere."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import record

    monkeypatch.setattr(record, "HISTORY", tmp_path / "history")


# --- the client ---------------------------------------------------------------------------------------------------


def with_server(reply: bytes | list[bytes], use: Callable[[int], Awaitable[Any]]) -> tuple[Any, bytes]:
    """What ``use`` gives with a server that answers every request so, piece by piece; and the last request."""
    request = b""
    answered: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal request
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.splitlines() if line.startswith(b"Content-Length")
        )
        request = head + await reader.readexactly(length)
        for piece in [reply] if isinstance(reply, bytes) else reply:
            writer.write(piece)
            await asyncio.sleep(0.001)
        writer.close()
        await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered.append(asyncio.create_task(answer(reader, writer)))

    async def both() -> Any:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server:
            try:
                return await use(server.sockets[0].getsockname()[1])
            finally:
                await asyncio.gather(*answered, return_exceptions=True)

    return asyncio.run(both()), request


def chunked(*parts: bytes) -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]


def event(text: str | None = None, **rest: Any) -> bytes:
    choices = (
        [] if text is None else [{"index": 0, "text": text, "finish_reason": rest.pop("finish_reason", None)}]
    )
    return b"data: " + json.dumps({"choices": choices, **rest}).encode() + b"\n\n"


def streamed(reply: bytes | list[bytes], wanted: int = 3) -> Any:
    from serving.client import Answer, stream

    answer = Answer(sent=0.0, wanted=wanted)
    _, request = with_server(reply, lambda port: stream(port, {"prompt": "Hi", "max_tokens": wanted}, answer))
    assert json.loads(request.partition(b"\r\n\r\n")[2]) == {
        "prompt": "Hi",
        "max_tokens": wanted,
        "stream": True,
    }
    return answer


def test_a_stream_is_read_however_it_is_cut() -> None:
    whole = event("á") + b": ping\n\n" + event("") + event(" b") + event("c", finish_reason="length")
    usage = event(usage={"completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 7}})
    whole += usage + b"data: [DONE]\n\n"
    for size in (1, 7, len(whole)):
        answer = streamed(chunked(*(whole[i : i + size] for i in range(0, len(whole), size))))
        assert (answer.text, answer.pieces, answer.tokens) == ("á bc", 3, 3)
        assert (answer.finish_reason, answer.cached_tokens) == ("length", 7)
        assert answer.sent < answer.first <= answer.last


def test_tokens_are_counted_without_the_servers_help() -> None:
    assert streamed(chunked(event("a"), event("b", finish_reason="length"))).tokens == 3
    assert streamed(chunked(event("a"), event("b", finish_reason="stop"))).tokens == 2
    assert streamed(chunked(event("a"))).tokens == 1


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nfull", "status 429: full"),
        (b"HTTP/1.1 500 Oh\r\n\r\nno length", "status 500: no length"),
        (chunked(event("a"), event(error={"message": "lost"})), "in mid-stream: .*lost"),
    ],
)
def test_a_server_that_refuses_is_an_error(reply: bytes | list[bytes], message: str) -> None:
    from serving.client import RequestError

    with pytest.raises(RequestError, match=message):
        streamed(reply)


def test_a_server_that_goes_away_is_an_error() -> None:
    from serving.client import RequestError

    with pytest.raises(RequestError, match="closed the connection"):
        streamed(chunked(event("a"))[:-1])
    with pytest.raises(EOFError):
        streamed([b"".join(chunked(event("a")))[:-12]])


# --- the load -----------------------------------------------------------------------------------------------------


def pages(seed: int = 0) -> Any:
    """Prompts of words, which are the tokens here."""
    from serving.load import Pages

    words = [f"w{(i * i) % 9973}" for i in range(40_000)]
    text = "\n".join(" ".join(words[i : i + 8]) for i in range(0, len(words), 8))
    ids: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        return [ids.setdefault(word, len(ids)) for word in text.split()]

    def decode(tokens: Any) -> str:
        names = list(ids)
        return "".join(f"{names[i]} " for i in tokens)

    return Pages(text, encode, decode, seed)


def test_what_is_asked_follows_from_the_seed() -> None:
    from serving.load import draw

    asked = draw(4, 22, pages(), context=1024, seed=3)
    assert asked == draw(4, 22, pages(), context=1024, seed=3)
    assert asked != draw(4, 22, pages(), context=1024, seed=4)
    assert [len(requests) for requests in asked] == [6, 6, 5, 5]
    requests = [request for one in asked for request in one]
    assert all(len(request.prompt.split()) == request.prompt_tokens for request in requests)
    assert all(32 <= r.prompt_tokens <= 512 and 64 <= r.max_tokens <= 256 and r.think_s > 0 for r in requests)
    assert len({tuple(request.prompt.split()[:16]) for request in requests}) == 22
    small = [r for one in draw(2, 20, pages(), context=128, seed=0) for r in one]
    assert all(32 <= r.prompt_tokens <= 64 and r.max_tokens == 32 for r in small)


def test_the_prompts_of_a_family_share_what_they_say() -> None:
    from serving.prefix import families

    for family in families(pages(), 3, context=1024):
        cold, warm, own = (text.split() for text in family[:3])
        assert (len(cold), len(warm), len(own), family.shared) == (512, 512, 32, 480)
        assert cold[:480] == warm[:480]
        assert cold[480:] != warm[480:]
        assert own[0] not in (cold[480], warm[480])


def test_a_load_runs_to_its_end_and_no_longer_than_its_limit() -> None:
    from serving.load import draw, run

    asked = draw(3, 6, pages(), context=64, seed=0)
    whole = chunked(event("a"), event("b"), event("c", finish_reason="length"))
    body: dict[str, Any] = {}
    figures, _ = with_server(whole, lambda port: run(port, asked, lambda *_: body, 30.0))
    tokens = sum(request.max_tokens for requests in asked for request in requests)
    assert (figures["requests"], figures["tokens"], figures["waiting_share"]) == (6, tokens, 0)
    assert figures["requests_per_s"] == pytest.approx(6 / figures["seconds"])
    assert figures["seconds"] < 30
    assert 0 < figures["first_token_p50_s"] <= figures["first_token_p95_s"]
    # Nobody has asked before the limit, and the server is asked once more to see that it is free again.
    late = [[request._replace(think_s=60.0) for request in requests] for requests in asked]
    figures, last = with_server(whole, lambda port: run(port, late, lambda p, n: {"prompt": p}, 0.05))
    assert (figures["requests"], figures["tokens_per_s"]) == (0, 0)
    assert json.loads(last.partition(b"\r\n\r\n")[2])["prompt"] == "\n"


def test_a_load_fails_with_its_requests() -> None:
    from serving.client import RequestError
    from serving.load import draw, run

    asked = draw(2, 4, pages(), context=64, seed=0)
    refusal = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
    with pytest.raises(RequestError, match="status 503"):
        with_server(refusal, lambda port: run(port, asked, lambda *_: {}, 30.0))


def test_what_the_limit_cuts_counts_by_its_share() -> None:
    from serving.client import Answer
    from serving.load import summarize

    whole = Answer(sent=1.0, wanted=11, first=2.0, last=4.0, pieces=9, finish_reason="length")
    cut = Answer(sent=2.0, wanted=100, first=5.0, last=9.0, pieces=25)
    waiting = [Answer(sent=3.0, wanted=50), Answer(sent=4.0, wanted=50)]
    figures = summarize([whole, cut, *waiting], began=0.0, ended=10.0)
    assert figures["tokens"] == 11 + 25
    assert figures["requests_per_s"] == pytest.approx(1.25 / 10)
    assert figures["tokens_per_s"] == pytest.approx(3.6)
    assert figures["waiting_share"] == 0.5
    assert figures["first_token_p50_s"] == 3.0, "of 1, 3, and at least 6 and 7"
    assert figures["first_token_p95_s"] == 7.0
    assert figures["token_s"] == pytest.approx(4 / 24), "of that and 2 / 10, the lower"


# --- the bars and the page ----------------------------------------------------------------------------------------


def run_of(servers: dict[str, float]) -> dict[str, Any]:
    """What a run keeps: tokens per second at four clients by server."""

    def spread(value: float) -> dict[str, float]:
        return {"median": value, "max": value}

    names = ("first_token_p50_s", "first_token_p95_s", "token_s", "client_cpu_share")
    return {
        "loads": [4],
        "servers": {
            name: {
                "4": {
                    **{name: spread(0.25) for name in names},
                    "tokens_per_s": spread(speed),
                    "requests_per_s": spread(speed / 100),
                    "waiting_share": spread(0.1),
                }
            }
            for name, speed in servers.items()
        },
        "prefix": {
            "gptwo fp32": {
                "cold_s": spread(0.5), "warm_s": spread(0.08), "saved_share": spread(0.93), "cached_share": spread(1.0)
            }
        },
    }  # fmt: skip


def test_ours_is_held_against_the_best_at_equal_precision() -> None:
    from serving import bars

    others = {"llama_cpp.server F32": 60.0, "llama-server F32": 210.0, "llama-server Q8_0": 300.0}
    found = run_of({"gptwo fp32": 250.0, "gptwo int8": 400.0, **others})
    rows = {row.what: row for row in bars.rows(found)}
    fp32, int8 = rows["tokens/s, 4 clients, fp32"], rows["tokens/s, 4 clients, int8"]
    assert (fp32.value, fp32.verdict) == (pytest.approx(250 / 210), "MISS")
    assert fp32.against.startswith("llama-server F32: 210")
    assert (int8.value, int8.verdict) == (pytest.approx(400 / 300), "HIT")
    assert rows["requests/s, 4 clients, fp32"].figure == "2.50"
    assert rows["share of a cached prefix's reading saved, fp32"].verdict == "HIT"
    assert rows["share of a cached prefix's reading saved, int8"].verdict == "not measured"


def test_the_page_shows_the_newest_whole_run(tmp_path: Path) -> None:
    import performance
    from serving import bars

    figures = run_of({"gptwo fp32": 250.0, "llama-server F32": 200.0})
    line = {
        **{"time": "2026-11-24T10:00:00", "commit": "abc", "threads": 2, "rounds": 3, "limit_s": 30.0},
        **{"machine": {"processor": "P", "capability": "C", "python": "3"}, "peers": {"gguf": "1"}},
        **{"size": "gpt2", "quick": False, "left_out": {"transformers serve": "why"}, "others_share": 0.0},
        **figures,
        "bars": [row.to_json() for row in bars.rows(figures)],
    }
    history = tmp_path / "serve.jsonl"
    assert performance.serve_tables(history).startswith("Not measured yet")
    lines = [line, {**line, "quick": True, "servers": {}}, {**line, "size": "nano", "servers": {}}]
    history.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    text = performance.serve_tables(history)
    assert "| gptwo fp32 | 4 | 2.50 | 250 | 0.25 s | over 0.25 s | 250.0 ms |" in text
    assert "| tokens/s, 4 clients, fp32 | 250 | llama-server F32: 200 | 1.25 | ≥ 1.2 | HIT |" in text
    assert "Left out: transformers serve (why)." in text
    assert "at most 25.0% of one core" in text
    page = performance.page(
        f"{performance.BEGIN_SERVE}\nold\n{performance.END}\n", history, begin=performance.BEGIN_SERVE,
        made=performance.serve_tables,
    )  # fmt: skip
    assert page == f"{performance.BEGIN_SERVE}\n\n{text}\n\n{performance.END}\n"


# --- the whole ----------------------------------------------------------------------------------------------------


def test_the_random_model_writes_whole_characters_and_never_ends(tmp_path: Path) -> None:
    import numpy as np
    import serve_worker
    from safetensors.numpy import load_file

    serve_worker.make("nano", str(tmp_path / "nano"))
    embedding = load_file(tmp_path / "nano" / "model.safetensors")["transformer.wte.weight"]
    zero = np.flatnonzero(~embedding.any(axis=1)).tolist()
    assert zero == list(range(128, 257)), "bytes of half characters, and the end of a text"


def test_a_server_that_writes_something_else_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import argparse

    import serve

    monkeypatch.setattr(serve, "read_config", lambda _: argparse.Namespace(context=1024))
    run = serve.Run(tmp_path, tmp_path, argparse.Namespace(threads=1))
    told = {"32": [("Hi", 3, "abc")], "8": [("Hi", 1, "a")]}

    async def check(name: str, port: int) -> None:
        await asyncio.to_thread(run.check, name, port, told)

    good, bad = (chunked(*map(event, text)) for text in ("abc", "abd"))
    with_server(good, lambda port: check("gptwo fp32", port))
    with pytest.raises(RuntimeError, match="does not write what gptwo writes: 'abd', not 'abc'"):
        with_server(bad, lambda port: check("llama-server F32", port))
