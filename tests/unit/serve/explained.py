"""The application over a small model of random weights, with what explains it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from asgi_client import Reply
from served import Client

import gptwo
from gptwo.checkpoint.store import save_checkpoint
from gptwo.config import GPT2Config
from gptwo.infer.api import LanguageModel
from gptwo.serve.explaining.explaining import Explaining
from gptwo.serve.metrics import Metrics
from gptwo.serve.serving import Serving
from gptwo.serve.settings import ServeSettings
from gptwo.serve.writer import Writer
from gptwo.tokenizer import build_byte
from random_checkpoint import random_weights

CONFIG = GPT2Config(n_layer=2, n_head=3, n_embd=24, context=80, vocab_size=257, dropout=0.0)
PROMPT = "The sea keeps what rivers bring"
STEPS = (10, 20)


def write_run(folder: Path) -> Path:
    """A run with checkpoints of two steps and a log."""
    for step in STEPS:
        weights = {name: tensor.float() for name, tensor in random_weights(CONFIG, seed=step).items()}
        place = folder / "checkpoints" / f"step-{step:08d}"
        save_checkpoint(place, config=CONFIG, weights=weights, tokenizer=build_byte(), training=None)
    return folder


def load(run: Path, **settings: Any) -> LanguageModel:
    return gptwo.load(run, device="cpu", **{"dtype": "fp32", **settings})


def serve(
    model: LanguageModel, body: Callable[[Client], Awaitable[None]], *, explains: bool = True, **settings: Any
) -> None:
    """Run ``body`` with a client of a server that is ready."""

    async def main() -> None:
        given = ServeSettings(model_name="random", explain=explains, **settings)
        writer = Writer(model, slots=4, cache_tokens=None, queue=60)
        writer.start()
        explaining = Explaining(model, given, say=lambda line: None) if explains else None
        serving = Serving(
            given, Metrics("random"), model=model, writer=writer, explaining=explaining, ready=True
        )
        serving.prepare()
        try:
            await asyncio.wait_for(body(Client(serving)), 120)
        finally:
            await writer.close(0)

    asyncio.run(main())


def array(reply: Reply) -> np.ndarray:
    """The numbers of a binary reply, as docs/explain-api.md says to read them."""
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/octet-stream"
    shape = [int(n) for n in reply.headers["x-shape"].split(",")]
    is_bytes = len(reply.body) == int(np.prod(shape))
    return np.frombuffer(reply.body, "u1" if is_bytes else "<f4").reshape(shape)


async def explained(client: Client, **asked: Any) -> dict[str, Any]:
    """The answer about a prompt."""
    asked = asked if "tokens" in asked else {"prompt": PROMPT, **asked}
    reply = await client.post("/explain/prompt", asked)
    assert reply.status == 200, reply.body
    answer: dict[str, Any] = reply.json
    return answer


async def looked_at(client: Client, rest: str, **asked: Any) -> Reply:
    """A part of the prompt's explanation."""
    made = (await explained(client, **asked))["id"]
    return await client.get(f"/explain/prompt/{made}/{rest}")
