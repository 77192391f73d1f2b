"""Bytes of weights, and of keys and values, in the formats that the engines keep them in.

The native engine packs a matrix in panels of 32 outputs (``kernels/layout.py``): fp32 and bf16 take 4 and 2 bytes a
weight; int8 and int4 take 8.5 and 4.5 bits, as every 32 weights of an output share a scale in bfloat16. What lacks to
fill a panel, a pair of inputs (bf16) or a group of 32 (int8, int4) is kept as zeros. E of an int4 model is int8;
biases, gains and P are fp32 throughout (docs/decisions/0016-weights-in-8-and-4-bits.md).
"""

from __future__ import annotations

from typing import Literal, get_args

from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config
from gptwo.costs.flops import check_lengths
from gptwo.costs.table import parameter_rows

WeightFormat = Literal["fp32", "bf16", "int8", "int4"]
KVFormat = Literal["fp32", "bf16", "int8"]

EMBEDDING = "token_embedding.weight"
_PANEL = _GROUP = 32
_SCALE = 2
# Of keys and values in int8: one scale in fp32 for each key and one for each value of a head.
_KV_SCALE = 4


def matrix_format(name: str, weights: WeightFormat) -> WeightFormat:
    """How the matrix of that name is kept in a model of ``weights``."""
    return "int8" if weights == "int4" and name == EMBEDDING else weights


def matrix_bytes(weights: WeightFormat, outputs: int, inputs: int) -> int:
    """Bytes of a packed matrix, its scales and what fills it up included. ``ConfigError`` for an unknown format."""
    _check(weights, WeightFormat)
    panels, groups = -(-outputs // _PANEL), -(-inputs // _GROUP)
    of_panel = {
        "fp32": 4 * _PANEL * inputs,
        "bf16": 4 * _PANEL * -(-inputs // 2),
        "int8": groups * _PANEL * (_GROUP + _SCALE),
        "int4": groups * _PANEL * (_GROUP // 2 + _SCALE),
    }
    return panels * of_panel[weights]


def packed_bytes(config: GPT2Config, weights: WeightFormat) -> int:
    """Bytes of all parameters as the native engine keeps them in memory."""
    return sum(
        matrix_bytes(matrix_format(row.name, weights), *row.shape)
        if is_matrix(row.name)
        else 4 * row.parameters
        for row in parameter_rows(config)
    )


def embedding_row_bytes(weights: WeightFormat, width: int) -> int:
    """Bytes of E that looking up one token reads."""
    _check(weights, WeightFormat)
    groups = -(-width // _GROUP)
    of_row = {"fp32": 4 * width, "bf16": 2 * width}
    return of_row.get(matrix_format(EMBEDDING, weights), width + _SCALE * groups)


def is_matrix(name: str) -> bool:
    """Whether the parameter is packed: the blocks' matrices and E."""
    return name == EMBEDDING or name.endswith((".qkv.weight", ".output.weight", ".up.weight", ".down.weight"))


def kv_position_bytes(config: GPT2Config, kv: KVFormat) -> int:
    """Bytes of one token's keys, or of its values, in one block: D values, and in int8 a scale of 4 bytes per head."""
    _check(kv, KVFormat)
    size = {"fp32": 4, "bf16": 2, "int8": 1}[kv]
    return config.n_embd * size + (_KV_SCALE * config.n_head if kv == "int8" else 0)


def kv_cache_bytes(config: GPT2Config, *, batch: int, tokens: int, bytes_per_value: int = 4) -> int:
    """Bytes of the keys and values of B sequences of T tokens: 2·L·B·T·D values."""
    check_lengths(config, batch=batch, tokens=tokens, past=0)
    return 2 * config.n_layer * batch * tokens * config.n_embd * bytes_per_value


def _check(name: str, formats: object) -> None:
    if name not in get_args(formats):
        raise ConfigError(f"there is no format {name!r}; expected one of {', '.join(get_args(formats))}")
