"""Where the time goes: each step of a prompt's pass and of the tokens after it, beside what the machine could do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo.infer.candidates import choose_from_top
from gptwo.infer.native_engine import NativeEngine
from gptwo.infer.policy import SamplingPolicy
from gptwo.serve.explaining.steps import Step, native_names, native_steps, reference_steps
from gptwo.serve.explaining.turns import Timed, by_turns, until_agreed

if TYPE_CHECKING:
    from gptwo.explanation.reference import Reference
    from gptwo.infer.engine import Engine, Session, Tokens
    from gptwo.infer.native_session import NativeSession
    from gptwo.kernels.top import Top
    from gptwo.perf.ceilings import Ceilings
    from gptwo.serve.explaining.words import Words

# As one writes by default with a filter: what decides the token is among the largest 51.
_POLICY = SamplingPolicy(temperature=0.8, top_k=50)
_CANDIDATES = 51
# A step that takes three times as long as its arithmetic and its bytes need is held up by something else.
_OVERHEAD = 3.0


def time_native(
    engine: NativeEngine, tokens: Tokens, decode_tokens: int, ceilings: Ceilings, words: Words
) -> dict[str, Any]:
    """Of the engine that serves, with a clock between its steps; the kernels and their results are the same."""
    config = engine.config
    tokens = tokens[: config.context - decode_tokens]
    session = engine.start(slots=1, capacity=len(tokens) + decode_tokens)
    measured = {"weights": engine.packed.dtype, "kv": engine.kv_dtype}

    def fresh(read: Callable[[], Any]) -> Any:
        session.truncate(0, 0)
        return read()

    prefill = by_turns(
        lambda: fresh(lambda: _timed(session, tokens))[1],
        lambda: fresh(lambda: session.read_top([0], [tokens], [1], _CANDIDATES)),
    )
    top = fresh(lambda: session.read_top([0], [tokens], [1], _CANDIDATES))[0]
    attends = [name.endswith(".attention") for name in native_names(config.n_layer)]
    timeline, laps, walls = [], [], []
    for step in range(decode_tokens):
        begin = time.perf_counter()
        token = _drawn(top, words, step)
        sampling_us = (time.perf_counter() - begin) * 1e6
        text = np.array([token], np.int64)
        held = len(tokens) + step
        # By turns, as in ``by_turns``: the first of two finds the processor's caches as sampling left them.
        for asks in (True, False) if step % 2 else (False, True):
            session.truncate(0, held)
            if asks:
                top, us = _timed(session, text)
            else:
                begin = time.perf_counter()
                session.read_top([0], [text], [1], _CANDIDATES)
                walls.append((time.perf_counter() - begin) * 1e6)
        kv_us = sum(each for each, one in zip(us, attends, strict=False) if one)
        laps.append(us)
        timeline.append(
            {
                "token": words.entry(token),
                "us": sum(us) + sampling_us,
                "weights_us": sum(us[:-1]) - kv_us,
                "kv_us": kv_us,
                "sampling_us": sampling_us,
                "python_us": us[-1],
            }
        )
    middle = len(tokens) + decode_tokens // 2

    def again(read: Callable[[], Any]) -> Any:
        session.truncate(0, middle)
        return read()

    decode = until_agreed(
        laps,
        walls,
        lambda: again(lambda: _timed(session, text))[1],
        lambda: again(lambda: session.read_top([0], [text], [1], _CANDIDATES)),
    )
    steps = {
        "prefill": (native_steps(config, len(tokens), 0, **measured), prefill),
        "decode": (native_steps(config, 1, middle, **measured), decode),
    }
    dtype = "int8" if engine.packed.dtype in ("int8", "int4") else engine.packed.dtype
    return {
        "engine": engine.description,
        **{name: _table(*found, ceilings, dtype) for name, found in steps.items()},
        "depth": middle,
        "first_token_us": prefill.forward_us,
        "timeline": timeline,
        "ceilings": _described(ceilings, dtype),
    }


def time_reference(
    reference: Reference,
    engine: Engine,
    tokens: Tokens,
    decode_tokens: int,
    *,
    ceilings: Ceilings,
    words: Words,
) -> dict[str, Any]:
    """Of an engine of fused operations, which cannot be looked into: the reference's steps, and the engine's tokens."""
    config = reference.config
    tokens = tokens[: config.context - decode_tokens]
    run = reference_steps(reference, tokens)
    prefill = by_turns(run.timed, run.plain)
    session = engine.start(slots=1, capacity=len(tokens) + decode_tokens)
    begin = time.perf_counter()
    top = session.read_top([0], [tokens], [1], _CANDIDATES)[0]
    first_us = (time.perf_counter() - begin) * 1e6
    dtype = "fp32"
    return {
        "engine": f"{engine.description}; it fuses its operations: the prompt's steps are of {reference.description}",
        "prefill": _table(run.steps, prefill, ceilings, dtype),
        "decode": None,
        "depth": len(tokens) + decode_tokens // 2,
        "first_token_us": first_us,
        "timeline": _plain_timeline(session, top, decode_tokens, words),
        "ceilings": _described(ceilings, dtype),
    }


def _plain_timeline(session: Session, top: Top, count: int, words: Words) -> list[dict[str, Any]]:
    timeline = []
    for step in range(count):
        begin = time.perf_counter()
        token = _drawn(top, words, step)
        drawn = time.perf_counter()
        top = session.read_top([0], [np.array([token], np.int64)], [1], _CANDIDATES)[0]
        end = time.perf_counter()
        of_model = {"model_us": (end - drawn) * 1e6, "sampling_us": (drawn - begin) * 1e6}
        timeline.append({"token": words.entry(token), "us": (end - begin) * 1e6, **of_model})
    return timeline


def _timed(session: NativeSession, text: Tokens) -> tuple[Top, list[float]]:
    """What follows, and the µs of each step, the last of them Python's share of the call."""
    begin = time.perf_counter()
    top, times = session.read_timed(0, text, _CANDIDATES)
    wall_us = (time.perf_counter() - begin) * 1e6
    us = (times / 1000.0).tolist()
    # The two clocks may differ by some microseconds between cores.
    return top, [*us, max(0.0, wall_us - sum(us))]


def _drawn(top: Top, words: Words, step: int) -> int:
    ids, logits = top.ids_nk[0], top.logits_nk[0]
    return int(ids[choose_from_top(ids, logits, _POLICY, drawable=words.count, seed=0, step=step)])


def _table(steps: Sequence[Step], timed: Timed, ceilings: Ceilings, dtype: str) -> dict[str, Any]:
    flops_per_s = _speed(ceilings, dtype)
    rows = [_row(step, us, flops_per_s, ceilings) for step, us in zip(steps, timed.us, strict=True)]
    return {
        "rows": rows,
        "sum_us": float(sum(timed.us)),
        "forward_us": timed.forward_us,
        "agrees": timed.agrees,
    }


def _row(step: Step, us: float, flops_per_s: float, ceilings: Ceilings) -> dict[str, Any]:
    """``share`` is that of the time that the step's arithmetic or its bytes need, whichever is more."""
    compute_us = step.flops / flops_per_s * 1e6
    memory_us = step.bytes / ceilings.read_bytes_per_s * 1e6
    floor_us = max(compute_us, memory_us)
    bound_by = "compute" if compute_us >= memory_us else "bandwidth"
    return {
        "name": step.name,
        "kind": step.kind,
        "shape": list(step.shape),
        "parameters": step.parameters,
        "flops": step.flops,
        "bytes": step.bytes,
        "us": us,
        "floor_us": floor_us,
        "bound_by": "overhead" if us > _OVERHEAD * floor_us else bound_by,
        "share": floor_us / us if us > 0 else 0.0,
    }


def _speed(ceilings: Ceilings, dtype: str) -> float:
    return ceilings.matmul_flops_per_s.get(dtype) or ceilings.matmul_flops_per_s["fp32"]


def _described(ceilings: Ceilings, dtype: str) -> dict[str, Any]:
    return {
        "flops_per_s": _speed(ceilings, dtype),
        "read_bytes_per_s": ceilings.read_bytes_per_s,
        "source": ceilings.source,
        "device": ceilings.name,
        "threads": ceilings.threads,
        "measured_at": ceilings.measured_at,
        "dtype": dtype,
    }
