"""Loads that a server must survive, each with the figures that say whether it did. On the loopback only.

``python tests/load`` runs one by hand (``tests/load/__main__.py``), ``tests/load/test_load.py`` each for a few seconds.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp

from running_server import HOST, TEXT, RunningServer

COMPLETIONS = "/v1/completions"
JSON = {"Content-Type": "application/json"}
MIB = 1 << 20


@asynccontextmanager
async def session_of(server: RunningServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        server.url,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=300),
    ) as session:
        yield session


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def polled(what: Callable[[], Any], every_s: float, into: list[Any]) -> None:
    while True:
        into.append(what())
        await asyncio.sleep(every_s)


@asynccontextmanager
async def watching(what: Callable[[], Any], every_s: float) -> AsyncIterator[list[Any]]:
    """The values of ``what``, which must be quick, every so often while the block runs."""
    values: list[Any] = []
    task = asyncio.create_task(polled(what, every_s, values))
    try:
        yield values
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def ask(session: aiohttp.ClientSession, body: dict[str, Any]) -> tuple[int, float, Any]:
    """Status, seconds and the whole reply of a completion."""
    began = time.perf_counter()
    async with session.post(COMPLETIONS, json=body) as response:
        content = await response.read()
        return response.status, time.perf_counter() - began, (response.headers, content)


async def single_client(server: RunningServer, seconds: float) -> list[tuple[int, float]]:
    """Status and milliseconds of the answers that a client in a process of its own had, one after the other."""
    program = str(Path(__file__).with_name("single_client.py"))
    client = await asyncio.create_subprocess_exec(
        sys.executable, program, HOST, str(server.port), str(seconds), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await client.communicate()
    assert client.returncode == 0
    return [(status, taken_ms) for status, taken_ms in json.loads(printed)]


# --- more clients than there is room for --------------------------------------------------------------------------


async def overload(
    server: RunningServer, *, clients: int, seconds: float, tokens: int = 64
) -> dict[str, Any]:
    """So many clients that each ask again as soon as they have an answer, whatever it was.

    A client that was refused waits a little, as any would, but far less than Retry-After says.
    """
    statuses: Counter[int] = Counter()
    without_retry_after = 0
    until = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal without_retry_after
        choose = random.Random(number)
        while time.perf_counter() < until:
            begin = choose.randrange(400)
            body = {"prompt": TEXT[begin : begin + 200], "max_tokens": tokens, "ignore_eos": True}
            status, _, (headers, content) = await ask(session, body)
            statuses[status] += 1
            if status == 429:
                without_retry_after += "retry-after" not in headers
                await asyncio.sleep(0.05)
            elif status == 200:
                assert json.loads(content)["usage"]["completion_tokens"] == tokens

    before = server.resident_bytes()
    async with session_of(server) as session, watching(server.resident_bytes, 0.5) as resident:
        *_, answers = await asyncio.gather(
            *(client(session, number) for number in range(clients)), single_client(server, seconds)
        )
        ended = time.perf_counter()
        status, _, _ = await ask(session, {"prompt": "sea", "max_tokens": 1})
        back_s = time.perf_counter() - ended
    idle_s = server.wait_until_idle()
    refused_ms = [taken_ms for status, taken_ms in answers if status == 429]
    return {
        "clients": clients,
        "statuses": dict(statuses),
        "refusals_without_retry_after": without_retry_after,
        "refusals_of_a_single_client": len(refused_ms),
        "refused_p50_ms": percentile(refused_ms, 0.5) if refused_ms else None,
        "refused_p99_ms": percentile(refused_ms, 0.99) if refused_ms else None,
        "resident_before_mib": before / MIB,
        "resident_most_mib": max(resident) / MIB,
        "resident_half_way_mib": max(resident[: len(resident) // 2 + 1]) / MIB,
        "next_status": status,
        "next_answer_s": back_s,
        "idle_after_s": idle_s,
    }


# --- clients that go away -----------------------------------------------------------------------------------------


async def aborts(server: RunningServer, *, count: int, at_once: int) -> dict[str, Any]:
    """Streams that are left: before the first byte of the answer, or after some of it; politely, or with a reset."""
    server.wait_until_idle()
    descriptors = server.descriptors()
    numbers = iter(range(count))
    statuses: Counter[str] = Counter()

    async def one(number: int) -> bool:
        """Whether it had a place."""
        choose = random.Random(number)
        long = choose.random() < 0.3
        body = {
            "prompt": TEXT[: 1100 if long else 60],
            "max_tokens": 500,
            "stream": True,
            "ignore_eos": True,
            "n": choose.choice([1, 1, 2]),
        }
        content = json.dumps(body).encode()
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        reader, writer = await asyncio.open_connection(HOST, server.port)
        connected = writer.get_extra_info("socket")
        try:
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            await writer.drain()
            if number % 4:
                first = await reader.readline()
                statuses[first.split(b" ")[1].decode() if first else "closed"] += 1
                if b" 429 " in first:
                    return False
                for _ in range(choose.randrange(12)):
                    await reader.readline()
            else:
                statuses["left before an answer"] += 1
            if number % 3 == 0:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        return True

    async def client() -> None:
        for number in numbers:
            while not await one(number):
                await asyncio.sleep(0.02)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    took_s = time.perf_counter() - began
    idle_s = server.wait_until_idle()
    left = await settled(server, descriptors)
    metrics = server.metrics()
    return {
        "streams": count,
        "took_s": took_s,
        "ends": dict(statuses),
        "idle_after_s": idle_s,
        "running": metrics["num_requests_running"],
        "waiting": metrics["num_requests_waiting"],
        "kv_use": metrics["kv_cache_usage_perc"],
        "descriptors_before": descriptors,
        "descriptors_after": left,
    }


async def settled(server: RunningServer, expected: int, within_s: float = 10) -> int:
    """The number of descriptors once it is no more than expected, or after a while."""
    until = time.perf_counter() + within_s
    while server.descriptors() > expected and time.perf_counter() < until:
        await asyncio.sleep(0.05)
    return server.descriptors()


# --- clients that are slow ----------------------------------------------------------------------------------------


async def _silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def _slow_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"POST /v1/completions HTTP/1.1\r\n")
    for number in range(3600):
        writer.write(b"X-%d: a\r\n" % number)
        await writer.drain()
        await asyncio.sleep(0.5)


async def _slow_body(writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 5000\r\n\r\n{"prompt": "'
    )
    for _ in range(3600):
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(0.5)


async def _never_reads(writer: asyncio.StreamWriter) -> None:
    body = json.dumps(
        {"prompt": "a", "max_tokens": 900, "ignore_eos": True, "stream": True, "logprobs": 5}
    ).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    await asyncio.sleep(3600)


SLOW: list[Callable[[asyncio.StreamWriter], Awaitable[None]]] = [_silent, _slow_head, _slow_body]


async def _held(server: RunningServer, behave: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> str:
    """A slow connection, until the server ends it."""
    try:
        # Hardly any room for what comes in, so that not to read is felt at once.
        reader, writer = await asyncio.open_connection(HOST, server.port, limit=1024)
    except OSError:
        return "refused"
    behaving = asyncio.create_task(behave(writer))  # type: ignore[arg-type]
    closed = asyncio.create_task(_until_closed(reader, reads=behave is not _never_reads))
    try:
        await asyncio.wait({behaving, closed}, return_when=asyncio.FIRST_COMPLETED)
        return "ended by the server"
    finally:
        behaving.cancel()
        closed.cancel()
        await asyncio.gather(behaving, closed, return_exceptions=True)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _until_closed(reader: asyncio.StreamReader, *, reads: bool) -> None:
    if not reads:
        await asyncio.sleep(3600)
    with suppress(ConnectionError):
        while await reader.read(256):
            pass


async def healthy_latencies(server: RunningServer, seconds: float) -> list[float]:
    """Milliseconds of one client that asks for a few tokens, again and again."""
    answers = await single_client(server, seconds)
    assert {status for status, _ in answers} == {200}, answers
    return [taken_ms for _, taken_ms in answers]


async def slow(server: RunningServer, *, connections: int, seconds: float) -> dict[str, Any]:
    """A healthy client's latency alone, then beside slow connections of every kind that are opened anew when ended."""
    descriptors = server.descriptors()
    alone = await healthy_latencies(server, seconds)
    ends: Counter[str] = Counter()

    async def client(number: int) -> None:
        while True:
            ends[await _held(server, SLOW[number % len(SLOW)])] += 1
            await asyncio.sleep(0.5)

    clients = [asyncio.create_task(client(number)) for number in range(connections)]
    await asyncio.sleep(min(2.0, seconds))
    held = server.descriptors() - descriptors
    beside = await healthy_latencies(server, seconds)
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    server.wait_until_idle()
    return {
        "connections": connections,
        "held_by_the_server": held,
        "ends": dict(ends),
        "requests": len(beside),
        "alone_p50_ms": percentile(alone, 0.5),
        "alone_p99_ms": percentile(alone, 0.99),
        "beside_p50_ms": percentile(beside, 0.5),
        "beside_p99_ms": percentile(beside, 0.99),
        "descriptors_before": descriptors,
        "descriptors_after": await settled(server, descriptors),
    }


# --- SIGTERM ------------------------------------------------------------------------------------------------------


async def drain(server: RunningServer, *, clients: int, tokens: int) -> dict[str, Any]:
    """SIGTERM while streams run: those end whole, new ones are refused, and the process goes with code 0."""
    ends: Counter[str] = Counter()
    started = asyncio.Semaphore(0)

    async def stream(session: aiohttp.ClientSession) -> None:
        body = {"prompt": "The sea", "max_tokens": tokens, "ignore_eos": True, "stream": True}
        async with session.post(COMPLETIONS, json=body) as response:
            lines = [line async for line in first_seen(response.content, started)]
            whole = lines[-2:] == [b"data: [DONE]\n", b"\n"]
            ends["whole" if whole else f"status {response.status}, cut off"] += 1

    async with session_of(server) as session:
        running = [asyncio.create_task(stream(session)) for _ in range(clients)]
        for _ in range(clients):
            await started.acquire()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.05)
        try:
            async with session.post(COMPLETIONS, json={"prompt": "sea", "max_tokens": 1}) as response:
                new = str(response.status)
                retry_after = response.headers.get("Retry-After")
        except aiohttp.ClientConnectionError:
            new, retry_after = "connection refused", None
        await asyncio.gather(*running)
        began = time.perf_counter()
        code = await asyncio.to_thread(server.process.wait, 60)
    return {
        "streams": clients,
        "ends": dict(ends),
        "a_new_one": new,
        "retry_after": retry_after,
        "exit_code": code,
        "gone_after_s": time.perf_counter() - began,
    }


async def first_seen(lines: Any, started: asyncio.Semaphore) -> AsyncIterator[bytes]:
    """``lines``, saying when the first has come."""
    seen = False
    async for line in lines:
        if not seen:
            started.release()
            seen = True
        yield line


# --- for a long time ----------------------------------------------------------------------------------------------


async def soak(server: RunningServer, *, clients: int, seconds: float) -> dict[str, Any]:
    """A mixed load and the slope of the memory over the second half of it."""
    statuses: Counter[int] = Counter()
    until = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        choose = random.Random(number)
        while time.perf_counter() < until:
            begin, length = choose.randrange(1000), choose.choice([0, 10, 100, 1000])
            body: dict[str, Any] = {
                "prompt": TEXT[begin : begin + length],
                "max_tokens": choose.randrange(1, 100),
            }
            body |= choose.choice(
                [
                    {},
                    {"stream": True},
                    {"n": 3},
                    {"logprobs": 5, "echo": True},
                    {"temperature": -1},
                    {"stop": ["e"]},
                ]
            )
            async with session.post(COMPLETIONS, json=body) as response:
                statuses[response.status] += 1
                if choose.random() < 0.2:
                    response.close()
                else:
                    await response.read()

    began = time.perf_counter()
    async with (
        session_of(server) as session,
        watching(lambda: (time.perf_counter() - began, server.resident_bytes()), seconds / 400) as points,
    ):
        await asyncio.gather(*(client(session, number) for number in range(clients)))
    server.wait_until_idle()
    after_warm_up = [(at_s, size / MIB) for at_s, size in points if at_s > seconds / 2]
    return {
        "seconds": seconds,
        "statuses": dict(statuses),
        "resident_first_mib": points[0][1] / MIB,
        "resident_half_way_mib": after_warm_up[0][1],
        "resident_last_mib": after_warm_up[-1][1],
        "slope_mib_per_hour": 3600 * slope(after_warm_up),
    }


def slope(points: list[tuple[float, float]]) -> float:
    """Of the line with the least squared distance: Σ (x − x̄)(y − ȳ) / Σ (x − x̄)²."""
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / sum((x - x_mean) ** 2 for x, _ in points)


# --- what is long to compute --------------------------------------------------------------------------------------


async def heavy(server: RunningServer, *, seconds: float) -> dict[str, Any]:
    """Streams, beside megabytes to tokenize, long prompts to read and large answers; how soon /health is answered.

    Gives the begin and the end, in seconds of time.monotonic(), for who watches the loop from inside (``beating.py``).
    """
    until = time.monotonic() + seconds
    statuses: Counter[str] = Counter()
    healthy_s: list[float] = []
    megabyte = TEXT * (MIB // len(TEXT.encode()) - 1)
    long: dict[str, Any] = {"max_tokens": 20, "ignore_eos": True}
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("/tokenize", {"prompt": megabyte}),
        (COMPLETIONS, {"prompt": megabyte}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": megabyte}]}),
        (COMPLETIONS, {**long, "prompt": TEXT[:1400]}),
        (COMPLETIONS, {**long, "prompt": [TEXT[n:1300] for n in range(8)], "echo": True, "logprobs": 5}),
        (COMPLETIONS, {**long, "prompt": "a", "max_tokens": 500, "stream": True, "logprobs": 5}),
    ]

    async def client(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        while time.monotonic() < until:
            # Large bodies in pieces, or the client's own loop would stand still.
            async with session.post(path, data=BytesIO(content), headers=JSON) as response:
                await response.read()
                statuses[f"{path} {response.status}"] += 1

    async def health(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < until:
            began = time.perf_counter()
            async with session.get("/health") as response:
                assert response.status == 200
            healthy_s.append(time.perf_counter() - began)
            await asyncio.sleep(0.01)

    began = time.monotonic()
    async with session_of(server) as session:
        await asyncio.gather(health(session), *(client(session, *kind) for kind in kinds))
    return {
        "statuses": dict(statuses),
        "health_asked": len(healthy_s),
        "health_p50_ms": 1e3 * percentile(healthy_s, 0.5),
        "health_p99_ms": 1e3 * percentile(healthy_s, 0.99),
        "health_most_ms": 1e3 * max(healthy_s),
        "began_s": began,
        "ended_s": time.monotonic(),
    }
