"""A model as a service: planned, loaded, the writer beside it, and the routes over both."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

from gptwo.base.units import in_units
from gptwo.perf.cases import peak_memory_bytes
from gptwo.serve.app import create_app
from gptwo.serve.hosts import HostCheck, is_loopback
from gptwo.serve.kv_budget import KVBudget
from gptwo.serve.serving import Serving
from gptwo.serve.serving_plan import ServingPlan
from gptwo.serve.writer import Writer

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gptwo.infer.api import LanguageModel
    from gptwo.serve.metrics import Metrics
    from gptwo.serve.settings import ServeSettings

# What OpenAI's client sends beside what a browser lets pass unasked.
_CORS_HEADERS = ("authorization", "content-type", "x-request-id", "openai-organization", "openai-project")


class ModelService:
    """``server.Service`` of the model that ``load`` gives, after ``plan`` has said what it will take.

    ``say`` is told both in a few lines, and at the end what it really took.
    """

    def __init__(
        self,
        settings: ServeSettings,
        load: Callable[[], LanguageModel],
        *,
        plan: Callable[[], ServingPlan],
        metrics: Metrics,
        say: Callable[[str], None],
    ) -> None:
        self._load = load
        self._make_plan = plan
        self._plan: ServingPlan | None = None
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
        """Plan, load the model, take its memory. Errors as ``plan_serving`` and ``gptwo.load``."""
        settings = self._serving.settings
        self._plan = self._make_plan()
        self._say(self._plan.line())
        began = time.perf_counter()
        model = self._load()
        self._serving.model = model
        self._serving.prepare()
        loaded_s = time.perf_counter() - began
        budget = self._plan.budget
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
        writer = self._serving.open_writer
        await writer.close(grace_s)
        gc.unfreeze()
        if self._plan is not None:
            peak = peak_memory_bytes(self._plan.generation.device)
            self._say(self._plan.took_line(tokens=writer.wrote, seconds=writer.ran_s, peak_memory_bytes=peak))


def _memory(settings: ServeSettings, budget: KVBudget, context: int) -> str:
    return (
        f"KV memory: {in_units(budget.bytes)} for {budget.tokens:,} tokens; {budget.slots} texts of at most "
        f"{context:,} tokens at a time, {settings.queue} more may wait"
    )
