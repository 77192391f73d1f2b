"""The servers that are timed: how each is started, asked and told to go. Imports none of their libraries.

llama_cpp.server   llama-cpp-python's own. It answers one request after the other; its context keeps the last text, and
                   what a prompt shares with it is not read again. Requests in progress are not interrupted, and logits
                   are made of the last token alone; its defaults are otherwise.
llama-server       llama.cpp's server in C++, with a slot for each client and continuous batching. It is a program, on
                   PATH or beside the peers' interpreter; llama.cpp's build makes it.
transformers serve with its continuous batching.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.client import HOST, get

START_S, STOP_S = 180.0, 10.0
SLOTS = 64


class ProgramNotFoundError(RuntimeError):
    """A server is not installed."""


@dataclass(frozen=True)
class Server:
    """A server at one precision; ``bits`` are those of a weight."""

    family: str
    precision: str
    bits: int

    @property
    def ours(self) -> bool:
        return self.family == "gptwo"

    @property
    def converts(self) -> bool:
        """Whether it needs the model as a GGUF file."""
        return self.family in ("llama_cpp.server", "llama-server")


SERVERS = {
    "gptwo fp32": Server("gptwo", "fp32", 32),
    "gptwo int8": Server("gptwo", "int8", 8),
    "llama_cpp.server F32": Server("llama_cpp.server", "F32", 32),
    "llama_cpp.server Q8_0": Server("llama_cpp.server", "Q8_0", 8),
    "llama-server F32": Server("llama-server", "F32", 32),
    "llama-server Q8_0": Server("llama-server", "Q8_0", 8),
    "transformers serve": Server("transformers serve", "float32", 32),
}
# What each family is installed by, with pip.
DISTRIBUTIONS = {
    "gptwo": (),
    "llama_cpp.server": ("llama-cpp-python[server]", "gguf"),
    "llama-server": ("gguf",),
    "transformers serve": ("transformers[serving]",),
}
# transformers' own choice, and its block has a page of every layer.
_PAGE_TOKENS = 256
_HEALTH = {"llama_cpp.server": "/v1/models"}


def command(name: str, model: Path, port: int, *, python: str, threads: int, context: int) -> list[str]:
    """The command line of a server over ``model``: a folder, or the GGUF file of those who need one."""
    server = SERVERS[name]
    here = ("--host", HOST, "--port", str(port))
    match server.family:
        case "gptwo":
            ours = ("--engine", "native", "--dtype", server.precision, "--threads", str(threads))
            return [python, "-m", "gptwo", "serve", str(model), *here, *ours, "--slots", str(SLOTS)]
        case "llama_cpp.server":
            counts = ("--n_ctx", str(context), "--n_threads", str(threads), "--n_threads_batch", str(threads))
            settings = ("--interrupt_requests", "false", "--logits_all", "false", "--verbose", "false")
            return [python, "-m", "llama_cpp.server", "--model", str(model), *here, *counts, *settings]
        case "llama-server":
            beside = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
            program = shutil.which("llama-server", path=beside) or "llama-server"
            counts = ("--threads", str(threads), "--threads-batch", str(threads), "--parallel", str(SLOTS))
            return [program, "--model", str(model), *here, *counts, "--ctx-size", str(SLOTS * context)]
        case _:
            program = str(Path(python).with_name("transformers"))
            settings = ("--device", "cpu", "--dtype", server.precision, "--continuous-batching")
            # Left to itself it takes 60% of the memory, and touches all of that before it answers.
            blocks = ("--cb-num-blocks", str(-(-SLOTS * context // _PAGE_TOKENS)))
            return [program, "serve", str(model), *here, *settings, *blocks]


def body(name: str, model: Path, prompt: str, max_tokens: int) -> dict[str, Any]:
    """A greedy request of so many tokens. Nothing stops the text: the model's ``<|endoftext|>`` is never the best."""
    asked: dict[str, Any] = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0}
    match SERVERS[name].family:
        case "gptwo":
            return {**asked, "ignore_eos": True, "stream_options": {"include_usage": True}}
        case "llama_cpp.server":
            return {**asked, "repeat_penalty": 1.0}
        case "llama-server":
            return {**asked, "ignore_eos": True, "stream_options": {"include_usage": True}}
        case _:
            return {**asked, "model": str(model)}


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    name: str, line: list[str], port: int, log: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """The server, from when it answers until the block ends. ``RuntimeError`` with what it said last if it does not."""
    with log.open("wb") as file:
        try:
            process = subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT, env=dict(environment))
        except FileNotFoundError as error:
            raise ProgramNotFoundError(f"there is no {line[0]}") from error
    try:
        deadline = time.monotonic() + START_S
        path = _HEALTH.get(SERVERS[name].family, "/health")
        while not asyncio.run(_answers(port, path)):
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise RuntimeError((said or [f"it ended with code {process.returncode}"])[-1])
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _answers(port: int, path: str) -> bool:
    try:
        return await asyncio.wait_for(get(port, path), timeout=5.0) == 200
    except (OSError, IndexError, ValueError, TimeoutError):
        return False


def interpreter(name: str, given: list[str]) -> str:
    """The interpreter of a peer: of ``PATH`` and ``NAME=PATH`` the last that is for its family, else this one."""
    pythons = {"": sys.executable} | {key: path for key, _, path in (text.rpartition("=") for text in given)}
    return pythons.get(SERVERS[name].family, pythons[""])
