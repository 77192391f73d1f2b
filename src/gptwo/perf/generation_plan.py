"""What writing with a model will cost before it is loaded: bytes, seconds, tokens per second."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from gptwo.base.errors import ConfigError, ContextLengthError
from gptwo.config import GPT2Config
from gptwo.costs import KVFormat, WeightFormat, forward_flops, kv_block_bytes, parameter_count, serving_memory
from gptwo.infer.formats import Formats
from gptwo.kernels.cache import BLOCK
from gptwo.perf.plan import largest_that_fits
from gptwo.perf.predict import predict_forward
from gptwo.perf.target import Target, measured_process_bytes

EngineName = Literal["native", "torch"]
# Rows of prompts that a server reads in one pass where nobody else is written (serve/writer.py: CHUNK_ALONE).
_PROMPT_ROWS = 512
# What keys and values may take at most of what the model leaves: with more the system begins to swap, or ends the
# process. A server refuses more (serve/kv_budget.py).
MOST_FOR_KV = 0.8


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """Texts of ``new_tokens`` after ``prompt_tokens``, one alone and ``slots`` side by side; None is not known.

    ``memory`` has the parts of ``peak_memory_bytes``, with ``kv_tokens`` tokens' keys and values in it. A slot takes
    ``kv_bytes_per_slot`` for a whole context. ``largest_slots`` so large would fit and leave room, as a server wants it
    (``MOST_FOR_KV``), 0 when not one does.
    ``prefill_seconds`` is to the first token of a text alone, ``tokens_per_s`` of one text from there on and
    ``tokens_per_s_all_slots`` of all of them together; ``seconds`` is one whole text alone.
    """

    device: str
    title: str
    ceilings: str | None
    measured_at: str | None = None
    engine: str
    weights: str
    kv: str
    parameters: int
    prompt_tokens: int
    new_tokens: int
    slots: int
    kv_tokens: int
    kv_bytes_per_slot: int
    largest_slots: int | None
    flops: int
    memory: dict[str, int]
    peak_memory_bytes: int
    free_memory_bytes: int | None
    prefill_seconds: float | None = None
    tokens_per_s: float | None = None
    tokens_per_s_all_slots: float | None = None
    bound_by: str | None = None
    seconds: float | None = None
    cost: float | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the memory is there; None where nobody knows how much there is."""
        return None if self.free_memory_bytes is None else self.peak_memory_bytes <= self.free_memory_bytes

    def to_json(self) -> dict[str, Any]:
        """The fields, and ``fits``, as JSON has them."""
        return {**dataclasses.asdict(self), "fits": self.fits}


def plan_generation(
    config: GPT2Config,
    target: Target,
    *,
    engine: EngineName,
    formats: Formats,
    prompt_tokens: int,
    new_tokens: int,
    slots: int = 1,
    kv_tokens: int | None = None,
    process_bytes: int | None = None,
    price_per_hour: float | None = None,
) -> GenerationPlan:
    """Writing on ``engine`` ("native" or "torch") with weights, keys and values in ``formats``.

    ``kv_tokens`` are held in memory, None for a whole context in each slot. ``process_bytes`` the program itself takes;
    None is what was measured with the ceilings, if they were. ``tokens_per_s`` are of a token in the
    middle of the text. ``cost`` is of one text alone. There are no times where the device's speed in that dtype is not
    known. ``ContextLengthError`` for a text of more than C tokens, ``ConfigError`` for bf16 on a GPU that has none.
    """
    if prompt_tokens + new_tokens > config.context:
        raise ContextLengthError(
            f"{prompt_tokens} tokens and {new_tokens} more are more than the model's context of {config.context}; "
            "expected at most that, together"
        )
    if formats.weights == "bf16" and target.kind == "cuda" and not target.has_bf16:
        raise ConfigError(f"{target.title} has bf16 by emulation alone, which is slow; expected --dtype fp16")
    if process_bytes is None:
        process_bytes = measured_process_bytes(target, engine)
    of_token = kv_token_bytes(config, engine=engine, formats=formats)

    def memory_of(slots: int, kv_tokens: int) -> dict[str, int]:
        return {
            "process": process_bytes,
            **model_memory(config, engine=engine, formats=formats, slots=slots),
            "kv": kv_tokens * of_token,
        }

    kv_tokens = slots * config.context if kv_tokens is None else kv_tokens
    memory, largest_slots = memory_of(slots, kv_tokens), None
    if target.memory_bytes is not None:
        largest_slots = largest_that_fits(
            lambda n: {"all": with_room_for_kv(memory_of(n, n * config.context))},
            most=target.memory_bytes // (of_token * config.context),
            there=target.memory_bytes,
        )
    past = prompt_tokens + new_tokens // 2
    plan = GenerationPlan(
        device=target.device,
        title=target.title,
        ceilings=None,
        engine=engine,
        weights=formats.weights,
        kv=formats.kv,
        parameters=parameter_count(config),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        slots=slots,
        kv_tokens=kv_tokens,
        kv_bytes_per_slot=config.context * of_token,
        largest_slots=largest_slots,
        flops=forward_flops(config, batch=1, tokens=prompt_tokens, last_only=True)
        + sum(
            forward_flops(config, batch=1, tokens=1, past=prompt_tokens + step)
            for step in range(new_tokens - 1)
        ),
        memory=memory,
        peak_memory_bytes=sum(memory.values()),
        free_memory_bytes=target.memory_bytes,
    )
    ceilings = target.ceilings(training=False)
    if ceilings is None:
        return plan
    if formats.weights not in ceilings.matmul_flops_per_s:
        return dataclasses.replace(plan, ceilings=ceilings.source)
    predict = partial(
        predict_forward,
        config,
        ceilings,
        engine=engine,
        dtype=formats.weights,
        kv_dtype=formats.kv if engine == "native" else None,
    )
    first = predict(kind="prefill", tokens=prompt_tokens)
    alone, together = (predict(kind="decode", batch=batch, past=past) for batch in (1, slots))
    seconds = first.seconds + (new_tokens - 1) * alone.seconds
    return dataclasses.replace(
        plan,
        ceilings=ceilings.source,
        measured_at=ceilings.measured_at or None,
        prefill_seconds=first.seconds,
        tokens_per_s=1 / alone.seconds,
        tokens_per_s_all_slots=slots / together.seconds,
        bound_by=alone.bound_by,
        seconds=seconds,
        cost=None if price_per_hour is None else price_per_hour * seconds / 3600,
    )


def with_room_for_kv(memory: Mapping[str, int]) -> int:
    """Bytes that must be there for ``memory``, so that its "kv" takes ``MOST_FOR_KV`` of what the rest leaves."""
    return sum(memory.values()) - memory["kv"] + math.ceil(memory["kv"] / MOST_FOR_KV)


def model_memory(config: GPT2Config, *, engine: EngineName, formats: Formats, slots: int) -> dict[str, int]:
    """Bytes of what an engine takes beside keys and values: weights, activations and logits, by name."""
    weights, times = _format(formats.weights)
    parts = serving_memory(
        config,
        slots=slots,
        tokens=config.context,
        rows=max(slots, min(_PROMPT_ROWS, config.context)),
        weights=weights,
        kv="fp32",
        native=engine == "native",
    )
    return {name: times * size for name, size in parts.items() if name != "kv"}


def kv_token_bytes(config: GPT2Config, *, engine: EngineName, formats: Formats) -> int:
    """Bytes of one token's keys and values in all layers, as the engine keeps them."""
    if engine == "native":
        return kv_block_bytes(config, _KV[formats.kv]) // BLOCK
    return 2 * config.n_layer * config.n_embd * {"fp64": 8, "fp32": 4}.get(formats.kv, 2)


_KV: dict[str, KVFormat] = {"fp32": "fp32", "bf16": "bf16", "int8": "int8"}


def _format(name: str) -> tuple[WeightFormat, int]:
    """The format of ``costs`` that takes the same bytes, and how many times those: torch's fp16 is as wide as bf16."""
    known: dict[str, tuple[WeightFormat, int]] = {
        "fp64": ("fp32", 2),
        "fp32": ("fp32", 1),
        "fp16": ("bf16", 1),
        "bf16": ("bf16", 1),
        "int8": ("int8", 1),
        "int4": ("int4", 1),
    }
    return known[name]
