"""A model as a service: loaded, its memory measured, the writer beside it, and the routes over both."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

from gptwo.serve.app import create_app
from gptwo.serve.hosts import HostCheck, is_loopback
from gptwo.serve.kv_budget import KVBudget, in_units, kv_budget
from gptwo.serve.serving import Serving
from gptwo.serve.writer import Writer

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gptwo.infer.api import LanguageModel
    from gptwo.serve.metrics import Metrics
    from gptwo.serve.settings import ServeSettings

# What OpenAI's client sends beside what a browser lets pass unasked.
_CORS_HEADERS = ("authorization", "content-type", "x-request-id", "openai-organization", "openai-project")


class ModelService:
    """``server.Service`` of the model that ``load`` gives. ``say`` is told in a few lines what was made of it."""

    def __init__(
        self,
        settings: ServeSettings,
        load: Callable[[], LanguageModel],
        *,
        metrics: Metrics,
        say: Callable[[str], None],
    ) -> None:
        self._load = load
        self._say = say
        self._metrics = metrics
        self._serving = Serving(settings, metrics)
        self._writer: Writer | None = None
        self.app: ASGIApp = create_app(self._serving)
        if not settings.api_keys and is_loopback(settings.host):
            self.app = HostCheck(self.app)
        if settings.cors_origins:
            # Outside of the keys: a browser asks whether it may send one before it does.
            self.app = CORSMiddleware(
                self.app,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=_CORS_HEADERS,
                expose_headers=("x-request-id", "retry-after"),
            )

    def build(self) -> None:
        """Load the model and take its memory. Errors as ``gptwo.load`` and ``kv_budget``."""
        settings = self._serving.settings
        began = time.perf_counter()
        model = self._load()
        self._serving.model = model
        self._serving.prepare()
        loaded_s = time.perf_counter() - began
        budget = kv_budget(
            settings,
            context=model.config.context,
            bytes_per_token=model.engine.kv_bytes_per_token,
            free_bytes=model.engine.free_memory_bytes(),
            paged=model.engine.paged,
        )
        self._writer = Writer(
            model,
            slots=budget.slots,
            cache_tokens=budget.tokens,
            queue=settings.queue,
            prefix_cache=settings.prefix_cache,
            observer=self._metrics,
        )
        if settings.explain:
            from gptwo.serve.explaining.explaining import Explaining

            self._serving.explaining = Explaining(model, settings, say=self._say)
        # All of this stays, and would be passed over by each full collection: 20 ms in which nobody is answered.
        gc.collect()
        gc.freeze()
        self._say(f"{settings.model_name}: {model.description}, loaded in {loaded_s:.1f} s")
        self._say(_memory(settings, budget, model.config.context))

    def open(self) -> None:
        assert self._writer is not None
        # Not before: a server with a writer that is not ready is going down.
        self._serving.writer = writer = self._writer
        writer.start()
        self._metrics.watch(lambda: writer.stats)
        self._serving.ready = True

    async def close(self, grace_s: float) -> None:
        self._serving.ready = False
        await self._serving.open_writer.close(grace_s)
        gc.unfreeze()


def _memory(settings: ServeSettings, budget: KVBudget, context: int) -> str:
    return (
        f"KV memory: {in_units(budget.bytes)} for {budget.tokens:,} tokens; {budget.slots} texts of at most "
        f"{context:,} tokens at a time, {settings.queue} more may wait"
    )
