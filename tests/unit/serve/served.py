"""The application over an engine that follows a script, with its writer: no model, and no socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from asgi_client import Connection, Reply, ask

from gptwo.serve.app import create_app
from gptwo.serve.metrics import Metrics
from gptwo.serve.serving import Serving
from gptwo.serve.settings import ServeSettings
from gptwo.serve.writer import Writer
from gptwo.tokenizer import Tokenizer, build_byte
from scripted_engine import ScriptedEngine

EOT = 256
Follow = Callable[[list[int]], int]


def says(text: str | bytes, *, after: str = "|") -> Follow:
    """``text`` follows a prompt that ends with ``after``, then <|endoftext|>; another one is given ``after`` first."""
    answer = [*(text.encode() if isinstance(text, str) else text), EOT]

    def follow(tokens: list[int]) -> int:
        if ord(after) not in tokens:
            return ord(after)
        written = tokens[::-1].index(ord(after))
        return answer[written] if written < len(answer) else EOT

    return follow


THE_ANSWER = says("the answer")


class Model:
    """As much of a ``LanguageModel`` as a server needs."""

    description = "a script"

    def __init__(self, engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
        self.engine = engine
        self.config = engine.config
        self.tokenizer = tokenizer


class Client:
    """Asks one application."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.app = create_app(serving)

    async def get(self, path: str, **settings: Any) -> Reply:
        return await ask(self.app, "GET", path, **settings)

    async def post(self, path: str, content: Any = None, **settings: Any) -> Reply:
        return await ask(self.app, "POST", path, content, **settings)

    async def complete(self, **content: Any) -> Reply:
        return await self.post("/v1/completions", content)

    async def chat(self, **content: Any) -> Reply:
        return await self.post("/v1/chat/completions", content)

    def connect(self, path: str, content: bytes) -> tuple[Connection, asyncio.Task[Reply]]:
        """A request that is under way."""
        headers = {"content-type": "application/json"}
        connection = Connection(self.app, "POST", path, body=content, headers=headers)
        return connection, asyncio.create_task(connection.run())


def serve(
    body: Callable[[Client], Awaitable[None]],
    follow: Follow = THE_ANSWER,
    *,
    context: int = 1000,
    slots: int = 4,
    queue: int = 8,
    tokenizer: Tokenizer | None = None,
    **settings: Any,
) -> None:
    """Run ``body`` with a client of a server that is ready."""

    async def main() -> None:
        known = tokenizer or build_byte()
        model = Model(ScriptedEngine(follow, context=context, vocab_size=known.vocab_size), known)
        given = ServeSettings(model_name="script", **settings)
        serving = Serving(given, Metrics(given.model_name))
        serving.model = model  # type: ignore[assignment]
        serving.writer = Writer(model, slots=slots, cache_tokens=None, queue=queue)  # type: ignore[arg-type]
        serving.writer.start()
        serving.prepare()
        serving.ready = True
        try:
            await asyncio.wait_for(body(Client(serving)), 60)
        finally:
            await serving.writer.close(0)

    asyncio.run(main())
