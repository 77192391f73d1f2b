"""A real ``gptwo serve``: a process of its own on a free port of the loopback, with a small model of random weights."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from command import command_line
from gptwo.config import GPT2Config

TEXT = (
    "The sea keeps what rivers bring, and gives back rain over the hills. Năm nay mưa nhiều: the sea rises 🌊. "
    * 40
)
# Wide enough that answers differ, long enough that a text can be interrupted in the middle.
SHAPE = {"n_layer": 2, "n_head": 3, "n_embd": 48, "context": 1024, "dropout": 0.0}
HOST = "127.0.0.1"
STARTING_S = 60


def small_model(folder: Path, **shape: Any) -> Path:
    """A checkpoint in float32 with a byte-level BPE of 320 ids; ``shape`` goes over ``SHAPE``."""
    import torch

    from gptwo.tokenizer import train_bpe
    from random_checkpoint import write_random_checkpoint

    tokenizer = train_bpe(iter([TEXT]), 320)
    config = GPT2Config(**{**SHAPE, "vocab_size": tokenizer.vocab_size, **shape})
    write_random_checkpoint(folder, config, eot_id=tokenizer.eot_id, dtype=torch.float32)
    tokenizer.save(folder)
    return folder


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        """The error of an OpenAI body, which must be whole."""
        (error,) = self.json().values()
        assert error.keys() == {"message", "type", "param", "code"}, error
        assert isinstance(error["message"], str)
        assert error["message"]
        return dict(error)


@dataclass(frozen=True)
class RunningServer:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    key: str | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @contextmanager
    def _asked(
        self, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if content is not None else {}
        if self.key is not None:
            given["Authorization"] = f"Bearer {self.key}"
        connection = http.client.HTTPConnection(HOST, self.port, timeout=120)
        try:
            connection.request(method, path, body=content, headers={**given, **headers})
            yield connection.getresponse()
        finally:
            connection.close()

    def ask(
        self, path: str, body: object = None, *, method: str | None = None, headers: Mapping[str, str] = {}
    ) -> Reply:
        """GET without a body, POST with one. A body in bytes is sent as it is, anything else as JSON."""
        with self._asked(method or ("GET" if body is None else "POST"), path, body, headers) as response:
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def answer(self, path: str, body: object = None) -> Any:
        """The JSON of ``ask``, which must be 200."""
        reply = self.ask(path, body)
        assert reply.status == 200, (reply.status, reply.body)
        return reply.json()

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The data of the server-sent events of a request with ``stream``, up to ``[DONE]``, which must be the last."""
        with self._asked("POST", path, {**body, "stream": True}, {}) as response:
            assert response.status == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            done = False
            for line in response:
                if line.startswith(b"data: "):
                    assert not done, line
                    done = line == b"data: [DONE]\n"
                    if not done:
                        yield json.loads(line.removeprefix(b"data: "))
                else:
                    assert line == b"\n" or line.startswith(b":"), line
            assert done, "no [DONE]"

    @property
    def model(self) -> str:
        return str(self.answer("/v1/models")["data"][0]["id"])

    def metrics(self) -> dict[str, float]:
        """Each series of /metrics without its prefix, summed over its labels."""
        reply = self.ask("/metrics")
        assert reply.status == 200, reply.body
        found: dict[str, float] = {}
        for line in reply.body.decode().splitlines():
            series = re.fullmatch(r"gptwo:(\w+)(?:\{.*\})? (\S+)", line)
            if series:
                found[series[1]] = found.get(series[1], 0.0) + float(series[2])
        return found

    def wait_until_idle(self, within_s: float = 20) -> float:
        """Seconds until nothing runs, nothing waits and no block of the cache is held; more than asked is an error."""
        began = time.monotonic()
        names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        while True:
            metrics = self.metrics()
            waited_s = time.monotonic() - began
            if not any(metrics[name] for name in names):
                return waited_s
            assert waited_s < within_s, {name: metrics[name] for name in names}
            time.sleep(0.02)

    def descriptors(self) -> int:
        return int(psutil.Process(self.process.pid).num_fds())

    def resident_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, number: int = signal.SIGTERM, within_s: float = 60) -> int:
        """The exit code after a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(within_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(
    model: Path, *flags: object, log: Path, key: str | None = None, program: list[str] | None = None
) -> Iterator[RunningServer]:
    """``gptwo serve MODEL FLAGS``, answering /health with 200; at the end it must go at a SIGTERM, with code 0."""
    port = free_port()
    command = [*(program or command_line()), "serve", str(model), "--port", str(port), *map(str, flags)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={**os.environ}
        )
    server = RunningServer(process, port, log, key)
    try:
        _wait_until_ready(server)
        yield server
        # A test may have ended it itself, and then looked at the code.
        if process.poll() is None:
            assert server.stop() == 0, server.said()[-2000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_ready(server: RunningServer) -> None:
    until = time.monotonic() + STARTING_S
    while time.monotonic() < until:
        assert server.process.poll() is None, server.said()
        try:
            if server.ask("/health").status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"not ready after {STARTING_S} s: {server.said()}")
