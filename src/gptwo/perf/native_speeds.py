"""How fast the native engine's steps are by the rows that go through together, from the caches to far past them.

Measured on the engine itself, over models of zeros with nearly no vocabulary, so that what a plan multiplies up is what
will run: panels, tiles, barriers, rounding of activations, pages of keys and values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast, get_args

import numpy as np
import torch

from gptwo.config import GPT2Config, preset
from gptwo.costs import (
    KVFormat,
    kv_position_bytes,
    matrix_bytes,
    matrix_format,
    query_key_pairs,
)
from gptwo.infer.formats import KV_DTYPES
from gptwo.infer.native_engine import NativeEngine
from gptwo.infer.packed import EMBEDDING, matrix_dtypes, places
from gptwo.kernels.layout import PackedDtype
from gptwo.kernels.library import Kernels
from gptwo.perf.clock import Work, host_clock, typical_seconds
from gptwo.perf.speeds import FEW_ROWS
from gptwo.perf.zero_engine import zero_engine

_VOCABULARY = 32
# From one that stays in a core's own cache to one whose weights some caches keep and some do not.
_SMALL = tuple(
    GPT2Config(n_layer=4, n_head=D // 64, n_embd=D, context=1024, vocab_size=_VOCABULARY, dropout=0.0)
    for D in (128, 256, 512)
)
# Past all caches, where a layer more changes nothing: each stands for itself with as many layers as have so many bytes
# in any format. Where caches hold as much as that, speeds of still larger models are taken for too high.
_LARGE = (preset("gpt2"), preset("gpt2-xl"))
_LARGE_BYTES = 250e6
# Of many rows, which are bound by arithmetic wherever the weights lie, a part of the layers will do.
_FEW_LAYERS = 2
# Of a piece that is measured in turn with the others; and of a token, which in a run follows another one.
_TURN_S, _TOKEN_TURN_S = 2e-3, 1e-2
ROWS = (1, 4, 16, 64, 256)
_DEEP = 512
# The engine's steps for a token in a layer, between two barriers each: two norms, four products, attention.
STEPS_OF_LAYER = 7


def native_speeds(kernels: Kernels, *, budget_s: float) -> dict[str, Any]:
    """For each format of weights, of models from small to large:

    width, bytes          D; and of the blocks' matrices and the head, which decide what keeps them
    rows, s_per_byte      seconds for each byte of the blocks when so many rows go through together
    head_s_per_byte       seconds for each byte of the head, of one row
    prefill_s_per_value   seconds of attention for each pair of query and key and each of the D values of a key
    decode_s_per_byte     seconds of attention for each byte of keys and values, of one query at a time

    and what a call of the engine and a layer cost beside their arithmetic: ``call_s``, ``layer_s``.
    """
    with torch.inference_mode():
        call_s, layer_s = _overheads(kernels, budget_s / 10)
        share = budget_s / 25
        formats = {
            dtype: [
                {
                    **_blocks(kernels, config, dtype, call_s, layer_s, share),
                    "head_s_per_byte": _head(kernels, config, dtype, share / 4),
                }
                for config in (*_SMALL, *_LARGE)
            ]
            for dtype in get_args(PackedDtype)
        }
    return {"call_s": call_s, "layer_s": layer_s, "formats": formats}


def _overheads(kernels: Kernels, budget_s: float) -> tuple[float, float]:
    """Of a token of models with next to no arithmetic, what a layer more costs, and what is left without any."""
    few, many = (
        GPT2Config(n_layer=n, n_head=1, n_embd=32, n_inner=32, context=32, vocab_size=32, dropout=0.0)
        for n in (8, 64)
    )
    works = [_reading(zero_engine(kernels, config), 1) for config in (few, many)]
    of_few, of_many = typical_seconds(
        works, host_clock(torch.device("cpu")), budget_s=budget_s, turn_s=_TURN_S
    )
    layer_s = (of_many - of_few) / (many.n_layer - few.n_layer)
    return max(0.0, of_few - few.n_layer * layer_s), layer_s


def _blocks(  # noqa: PLR0917 - what every one of them needs
    kernels: Kernels, config: GPT2Config, dtype: PackedDtype, call_s: float, layer_s: float, budget_s: float
) -> dict[str, Any]:
    clock = host_clock(torch.device("cpu"))
    timed = _timed(config, dtype)
    L = timed.n_layer
    engine = zero_engine(kernels, timed, dtype)
    few = zero_engine(kernels, replace(timed, n_layer=_FEW_LAYERS), dtype) if L > _FEW_LAYERS else engine
    of_rows = [(engine if rows <= FEW_ROWS else few, rows) for rows in ROWS]
    many = [_reading(one, rows) for one, rows in of_rows[1:]]
    # What a token's attention takes is the difference of two times that are hardly apart: so many tokens of each.
    token, deep_token = typical_seconds(
        [_reading(engine, 1), _reading(engine, 1, past=_DEEP)],
        clock,
        budget_s=budget_s / 2,
        turn_s=_TOKEN_TURN_S,
    )
    *took, deep = typical_seconds(
        [*many, _reading(few, 256, past=_DEEP)], clock, budget_s=budget_s / 2, turn_s=_TURN_S
    )
    seconds = []
    for (one, _), whole in zip(of_rows, [token, *took], strict=True):
        beside = call_s + one.config.n_layer * layer_s
        # A clock's moment at least: no speed is infinite.
        seconds.append(max(whole - beside, 1e-9) / block_bytes(one.config, dtype))
    D = config.n_embd
    pairs = query_key_pairs(256, _DEEP) - query_key_pairs(256, 0)
    kept = kv_position_bytes(config, cast(KVFormat, KV_DTYPES[dtype]))
    return {
        "width": D,
        "bytes": block_bytes(config, dtype) + _head_bytes(config, dtype),
        "rows": list(ROWS),
        "s_per_byte": seconds,
        "prefill_s_per_value": max(0.0, deep - took[-1]) / (pairs * D * few.config.n_layer),
        "decode_s_per_byte": max(0.0, deep_token - token) / (2 * L * _DEEP * kept),
    }


def _head(kernels: Kernels, config: GPT2Config, dtype: PackedDtype, budget_s: float) -> float:
    """What a token of a vocabulary takes beyond one of nearly none: a long matrix is read faster than many short ones.

    Of a head with as many bytes as the blocks have, so that it stays where they would; behind a narrow layer.
    """
    timed = _timed(config, dtype)
    of_few_tokens = _head_bytes(timed, dtype)
    as_many = int(timed.vocab_size * block_bytes(timed, dtype) / of_few_tokens)
    engines = [
        zero_engine(kernels, replace(timed, n_layer=1, n_inner=32, vocab_size=vocabulary), dtype)
        for vocabulary in (timed.vocab_size, as_many)
    ]
    of_few, of_many = typical_seconds(
        [_reading(engine, 1) for engine in engines],
        host_clock(torch.device("cpu")),
        budget_s=budget_s,
        turn_s=_TOKEN_TURN_S,
    )
    fewer, more = (_head_bytes(engine.config, dtype) for engine in engines)
    return max(0.0, of_many - of_few) / (more - fewer)


def _timed(config: GPT2Config, dtype: PackedDtype) -> GPT2Config:
    """What stands for ``config``: with nearly no vocabulary and, of a large one, so many of its layers."""
    layers = config.n_layer
    if config in _LARGE:
        layers = max(1, int(_LARGE_BYTES / block_bytes(replace(config, n_layer=1), dtype)))
    return replace(config, n_layer=layers, vocab_size=_VOCABULARY)


def block_bytes(config: GPT2Config, dtype: PackedDtype) -> int:
    """Bytes of the blocks' matrices, packed."""
    return sum(
        place.end - place.begin
        for place in places(config, matrix_dtypes(config, dtype))
        if place.dtype and place.row.ours != EMBEDDING
    )


def _head_bytes(config: GPT2Config, dtype: PackedDtype) -> int:
    return matrix_bytes(matrix_format(EMBEDDING, dtype), config.vocab_size, config.n_embd)


def _reading(engine: NativeEngine, rows: int, *, past: int = 0) -> Work:
    """A pass of so many new tokens of one text after ``past``, and the most probable token after each of them.

    Of all of them: the last layer leaves out what is not asked for.
    """
    session = engine.start(slots=1, capacity=min(engine.config.context, past + rows))
    if past:
        session.read([0], [np.zeros(past, dtype=np.int64)], [1])
    token = np.zeros(rows, dtype=np.int64)

    def work() -> None:
        session.truncate(0, past)
        session.read_top([0], [token], [rows], 1)

    return work
