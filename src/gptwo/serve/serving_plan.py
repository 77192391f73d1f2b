"""What a server will take, before its model is loaded, and what it really took. No torch for the native engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gptwo.base.memory import resident_bytes
from gptwo.base.units import in_units, rate
from gptwo.checkpoint.released_config import read_config
from gptwo.infer.engines import choose_engine
from gptwo.infer.formats import formats_of
from gptwo.perf.generation_plan import (
    EngineName,
    GenerationPlan,
    kv_token_bytes,
    model_memory,
    plan_generation,
)
from gptwo.perf.plan_text import beside
from gptwo.perf.target import find_target, measured_process_bytes
from gptwo.serve.kv_budget import KVBudget, kv_budget
from gptwo.serve.settings import ServeSettings

# What a server takes beside its model from its plan to its first answer: threads, grammars, buffers of requests. Seen
# on Linux: 21 MB, of gptwo demo's model and of GPT-2.
_FIRST_ANSWER = 20_000_000


@dataclass(frozen=True)
class ServingPlan:
    """The memory for keys and values, and with it in the middle of the context memory and speed."""

    budget: KVBudget
    generation: GenerationPlan

    def line(self) -> str:
        """Before the model is loaded."""
        plan = self.generation
        parts = ", ".join(f"{name} {in_units(size)}" for name, size in plan.memory.items() if size)
        line = f"plan: {in_units(plan.peak_memory_bytes)} of memory at most ({parts})"
        if plan.free_memory_bytes is not None:
            line += f" of {in_units(plan.free_memory_bytes)} free"
        if plan.tokens_per_s is None or plan.tokens_per_s_all_slots is None:
            return f"{line}; tokens/s not known: `gptwo plan MODEL` measures this machine, once"
        return (
            f"{line}; {rate(plan.tokens_per_s)} tokens/s for one text, {rate(plan.tokens_per_s_all_slots)} for "
            f"{plan.slots} together"
        )

    def took_line(self, *, tokens: int, seconds: float, peak_memory_bytes: int) -> str:
        """When the server ends: ``tokens`` written in ``seconds`` of running the model, prompts among them."""
        planned = self.generation.peak_memory_bytes
        speed = f" at {rate(tokens / seconds)} tokens/s" if tokens else ""
        if peak_memory_bytes < planned and self.generation.engine == "native":
            speed += "; keys and values take their memory as they come"
        return (
            f"took: {in_units(peak_memory_bytes)} of memory at most{beside(peak_memory_bytes, planned)}, "
            f"{tokens:,} tokens written{speed}"
        )


def plan_serving(
    settings: ServeSettings,
    folder: Path,
    *,
    device: str = "auto",
    engine: str = "auto",
    dtype: str | None = None,
    kv_dtype: str | None = None,
    threads: int | None = None,
) -> ServingPlan:
    """Of the model in ``folder``, with arguments as ``gptwo.load`` has them.

    Raises ``ConfigError``, with the numbers, for what does not fit (``kv_budget``), and what ``choose_engine`` does.
    Times are there if this machine's ceilings are cached: a server does not wait for them to be measured.
    """
    choice = choose_engine(folder, engine=engine, device=device, dtype=dtype, kv_dtype=kv_dtype)
    native = choice.name == "native"
    formats = formats_of(folder, engine=choice.name, dtype=dtype, kv_dtype=kv_dtype)
    config = read_config(folder)
    target = find_target("cpu" if native else device, threads=threads)
    assert target.memory_bytes is not None, "the device is here"
    of_engine: EngineName = "native" if native else "torch"
    budget = kv_budget(
        settings,
        context=config.context,
        bytes_per_token=kv_token_bytes(config, engine=of_engine, formats=formats),
        model_bytes=model_memory(config, engine=of_engine, formats=formats, slots=settings.slots),
        free_bytes=target.memory_bytes,
        paged=native,
    )
    # What the process has by now is of its peak, and of what it may take. An engine in torch brings torch: what a
    # process of it has more than one of the native engine, where both were measured.
    has = resident_bytes()[0] if target.kind == "cpu" else 0
    without = measured_process_bytes(target, "native")
    comes = measured_process_bytes(target, of_engine) - without if without else 0
    half = max(1, config.context // 2)
    generation = plan_generation(
        config,
        replace(target, memory_bytes=target.memory_bytes + has),
        engine=of_engine,
        formats=formats,
        prompt_tokens=half,
        new_tokens=max(1, config.context - half),
        slots=budget.slots,
        kv_tokens=budget.tokens,
        process_bytes=has + comes + _FIRST_ANSWER if has else 0,
    )
    return ServingPlan(budget, generation)
