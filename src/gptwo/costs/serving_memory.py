"""Bytes that reading and writing text takes, by formula: weights, keys and values, activations, logits."""

from __future__ import annotations

from gptwo.config import GPT2Config
from gptwo.costs.flops import check_lengths
from gptwo.costs.formats import KVFormat, WeightFormat, packed_bytes

# ``kernels/cache.py``: positions in a block; ``native/model.cpp``: rows that go through the layers together.
_BLOCK, _ROWS = 32, 256


def kv_block_bytes(config: GPT2Config, kv: KVFormat) -> int:
    """Bytes of 32 positions of one sequence in all layers, as the native engine keeps them.

    A head's values are filled up to a multiple of 16, in int8 every key and value of a head has a scale of 4 bytes, and
    a head's block to whole lines of 64 bytes.
    """
    K, size = config.head_width, {"fp32": 4, "bf16": 2, "int8": 1}[kv]
    scales = 2 * _BLOCK * 4 if kv == "int8" else 0
    unit = -(-(scales + _BLOCK * size * (K + -(-K // 16) * 16)) // 64) * 64
    return config.n_layer * config.n_head * unit


def serving_memory(
    config: GPT2Config,
    *,
    slots: int,
    tokens: int,
    rows: int,
    outputs: int | None = None,
    weights: WeightFormat = "fp32",
    kv: KVFormat = "fp32",
    native: bool = True,
) -> dict[str, int]:
    """Bytes of each part, with every slot at ``tokens`` tokens; the process itself apart.

    ``rows`` new tokens go through together, of all slots; ``outputs`` of them have logits (one for each slot unless
    given). The native engine takes at most 256 rows at a time; torch has all of them, and its activations at least of
    one block. Its weights and its cache are in ``weights``, fp32 or bf16. Raises ``ContextLengthError`` past C.
    """
    check_lengths(config, batch=slots, tokens=tokens, past=0)
    D, F, V = config.n_embd, config.mlp_width, config.vocab_size
    logits = 4 * V * (slots if outputs is None else outputs)
    if not native:
        size = 4 if weights == "fp32" else 2
        return {
            "weights": packed_bytes(config, weights),
            "kv": 2 * config.n_layer * slots * tokens * D * size,
            "activations": size * rows * (7 * D + 2 * F),
            "logits": logits,
        }
    at_once = min(rows, _ROWS)
    rounded = (2 * D + F) * 5 // 4 if weights in ("int8", "int4") else 0
    return {
        "weights": packed_bytes(config, weights),
        "kv": slots * -(-tokens // _BLOCK) * kv_block_bytes(config, kv),
        "activations": at_once * (4 * (7 * D + F) + rounded),
        "logits": logits,
    }
