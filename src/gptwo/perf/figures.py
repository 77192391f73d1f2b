"""From seconds that were measured to what they say: how far from the floor, and what sets it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, cast

from gptwo.config import GPT2Config
from gptwo.costs import WeightFormat, forward_operations, parameter_count, training_flops
from gptwo.perf.ceilings import Ceilings
from gptwo.perf.predict import predict_forward, predict_training_step
from gptwo.perf.statistics import summarise, summarise_rounds
from gptwo.perf.workload import Case

# As which products of the ceilings a dtype can be computed: the fastest that was measured is its ceiling.
_PRODUCTS: Mapping[str, tuple[str, ...]] = {
    "fp64": ("fp32",),
    "fp32": ("fp32",),
    "bf16": ("bf16", "fp32"),
    "fp16": ("fp16", "bf16", "fp32"),
    "int8": ("int8", "fp32"),
    "int4": ("int8", "fp32"),
}
# How the engines keep weights and, unless told otherwise, keys and values: formats of ``costs`` and bytes of theirs.
_FORMATS: Mapping[str, tuple[str, str, int]] = {
    "fp64": ("fp32", "fp32", 2),
    "fp32": ("fp32", "fp32", 1),
    "bf16": ("bf16", "bf16", 1),
    "fp16": ("bf16", "bf16", 1),
    "int8": ("int8", "int8", 1),
    "int4": ("int4", "int8", 1),
}
# Passes over fp32 parameters that a step of training cannot do without: weights read forward and backward, gradients
# written, and by AdamW weights, gradients and two moments read, weights and moments written.
_TRAINING_PASSES = 10


class Floor(NamedTuple):
    """What a case must compute and move, and the least seconds of that: ``bound_by`` "arithmetic" or "memory"."""

    flops: int
    bytes: int
    seconds: float
    bound_by: str


def floor(config: GPT2Config, case: Case, ceilings: Ceilings) -> Floor:
    """FLOPs and bytes of one pass, step or token by formula, and max(FLOPs / ceiling, bytes / read bandwidth).

    Bytes are the weights, each read once, and the cache's keys and values: activations may stay in the processor's
    caches. Of a training step, ten passes over the parameters.
    """
    flops, moved = _training(config, case) if case.kind == "train" else _forward(config, case)
    arithmetic = flops / _ceiling(ceilings, case.contender.dtype)
    memory = moved / ceilings.read_bytes_per_s
    return Floor(flops, moved, max(arithmetic, memory), "arithmetic" if arithmetic > memory else "memory")


def products_of(dtypes: Iterable[str]) -> list[str]:
    """The dtypes of products that floors of these need, fp32 among them in any case."""
    return sorted({"fp32", *(product for dtype in dtypes for product in (dtype, *_PRODUCTS[dtype]))})


def _ceiling(ceilings: Ceilings, dtype: str) -> float:
    return max(ceilings.matmul_flops_per_s.get(product, 0.0) for product in _PRODUCTS[dtype])


def _training(config: GPT2Config, case: Case) -> tuple[int, int]:
    flops = training_flops(config, batch=case.batch, tokens=case.tokens)
    return flops, _TRAINING_PASSES * 4 * parameter_count(config)


def _forward(config: GPT2Config, case: Case) -> tuple[int, int]:
    weights, kv, times = _FORMATS[case.contender.dtype]
    operations = forward_operations(
        config,
        batch=case.batch,
        tokens=1 if case.kind == "decode" else case.tokens,
        past=middle(case) if case.kind == "decode" else 0,
        last_only=case.kind == "prefill",
        weights=cast(WeightFormat, weights),
        kv=cast(Any, kv),
    )
    moved = sum(step.weight_bytes + step.kv_bytes for step in operations)
    return sum(step.flops for step in operations), times * moved


def middle(case: Case) -> int:
    """Tokens in the cache at the middle one of those that a case decodes."""
    return case.past + case.tokens // 2


def tokens_of(case: Case) -> int:
    """Tokens that one sample of a case is for: of all its sequences together."""
    return case.batch * (1 if case.kind == "decode" else case.tokens)


def predicted(config: GPT2Config, case: Case, ceilings: Ceilings) -> tuple[float | None, int | None]:
    """Seconds and bytes at the peak as ``predict`` has them; None of what it does not know.

    That is text, and a dtype whose products were not measured: fp64, which has no format in ``costs`` either. And of
    bytes, on the CPU, those of a process whose part before the model was not measured: a quick run does not.
    """
    one = case.contender
    if case.with_text or one.dtype not in ceilings.matmul_flops_per_s:
        return None, None
    seconds, memory = _predicted(config, case, ceilings)
    process = "train" if case.kind == "train" else one.engine
    known = ceilings.device != "cpu" or process in ceilings.process_bytes
    return seconds, memory if known else None


def _predicted(config: GPT2Config, case: Case, ceilings: Ceilings) -> tuple[float, int]:
    one = case.contender
    if case.kind == "train":
        step = predict_training_step(
            config, ceilings, sequences=case.batch, tokens=case.tokens, dtype=one.dtype
        )
        return step.seconds, step.peak_memory_bytes
    found = predict_forward(
        config,
        ceilings,
        kind="decode" if case.kind == "decode" else "prefill",
        batch=case.batch,
        tokens=case.tokens,
        past=middle(case) if case.kind == "decode" else 0,
        engine=cast(Any, one.engine),
        dtype=one.dtype,
    )
    if case.kind != "forward":
        return found.seconds, found.peak_memory_bytes
    seconds = found.seconds + _other_logits_s(config, ceilings, case.batch, case.tokens, one.dtype)
    return seconds, _forward_bytes(config, case, found.memory)


def forward_seconds(
    config: GPT2Config, ceilings: Ceilings, *, batch: int, tokens: int, engine: str, dtype: str
) -> float:
    """Predicted seconds of a pass with the logits of every token: a prefill's, and the head's other rows."""
    found = predict_forward(
        config, ceilings, kind="prefill", batch=batch, tokens=tokens, engine=cast(Any, engine), dtype=dtype
    )
    return found.seconds + _other_logits_s(config, ceilings, batch, tokens, dtype)


def _other_logits_s(config: GPT2Config, ceilings: Ceilings, batch: int, tokens: int, dtype: str) -> float:
    """Of all tokens but the last of each text."""
    return 2 * batch * (tokens - 1) * config.n_embd * config.vocab_size / _ceiling(ceilings, dtype)


def _forward_bytes(config: GPT2Config, case: Case, prefill: Mapping[str, int]) -> int:
    """The parts of a prefill with the logits of every token; torch's pass keeps no keys and values."""
    parts = {**prefill, "logits": 4 * config.vocab_size * case.batch * case.tokens}
    if case.contender.engine == "torch":
        del parts["kv"]
    return sum(parts.values())


def predicted_row(config: GPT2Config, case: Case, ceilings: Ceilings) -> dict[str, Any]:
    """A case of a device that is not here: a prediction alone, and marked as one."""
    least, (seconds, memory) = floor(config, case, ceilings), predicted(config, case, ceilings)
    assert seconds is not None
    return {
        **_shape(case, least),
        "measured": False,
        "seconds": None,
        "rounds": [],
        "tokens_per_s": tokens_of(case) / seconds,
        "first_token_s": None,
        "split": None,
        "share": None,
        "peak_memory_bytes": None,
        "predicted_memory_bytes": memory,
        "predicted_s": seconds,
    }


def _shape(case: Case, least: Floor) -> dict[str, Any]:
    return {
        "id": case.id,
        "kind": case.kind,
        **case.contender._asdict(),
        "batch": case.batch,
        "tokens": case.tokens,
        "past": case.past,
        "with_text": case.with_text,
        "flops": least.flops,
        "bytes": least.bytes,
        "floor_s": least.seconds,
        "bound_by": least.bound_by,
    }


def case_row(
    config: GPT2Config,
    case: Case,
    answers: Sequence[dict[str, Any]],
    ceilings: Ceilings,
    known: Ceilings,
) -> dict[str, Any]:
    """A measured case as the record has it, from the answers of its processes.

    ``ceilings`` are those of the floor, ``known`` those that predictions are made from.
    """
    seconds = summarise_rounds([answer["seconds"] for answer in answers])
    least = floor(config, case, ceilings)
    predicted_s, predicted_bytes = predicted(config, case, known)
    row: dict[str, Any] = {
        **_shape(case, least),
        "measured": True,
        "seconds": seconds.to_json(),
        "rounds": [answer["seconds"] for answer in answers],
        "tokens_per_s": tokens_of(case) / seconds.median,
        "first_token_s": None,
        "split": None,
        "share": least.seconds / seconds.median,
        "peak_memory_bytes": max(answer["peak_memory_bytes"] for answer in answers),
        "predicted_memory_bytes": predicted_bytes,
        "predicted_s": predicted_s,
    }
    firsts = [answer["first_token_s"] for answer in answers if answer.get("first_token_s") is not None]
    if firsts:
        row["first_token_s"] = summarise(firsts).to_json()
    if case.kind == "train":
        row["split"] = {
            part: median([second for answer in answers for second in answer["split"][part]])
            for part in answers[0]["split"]
        }
    return row
