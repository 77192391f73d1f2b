"""What a configuration costs, by formula: parameters, floating-point operations, bytes. Exact integers, no torch.

FLOPs are those of matrix products alone, 2 per multiply-add, as model FLOPs utilisation is usually stated. A query
at position t meets the t + 1 keys that it may look at, and no masked ones (a kernel that multiplies the whole T×T
square does more than is counted). E is used twice and multiplied once: as the head; the embedding is a look-up.
Not counted: biases, residual additions, layer norms, GELU, softmax, dropout, the loss and the optimizer. They are
bound by memory, not by arithmetic, and grow with D and F, not with their products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gptwo.base.errors import ConfigError, ContextLengthError
from gptwo.config import GPT2Config


@dataclass(frozen=True, kw_only=True)
class ParameterRow:
    """One line of ``gptwo info``: a parameter, or one of attention's products, which have no parameters.

    ``flops_per_token`` is of the forward pass; the products' is the mean over the table's tokens, which is exact.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    bytes: int
    flops_per_token: int


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """The whole table of ``gptwo info`` and its totals, for sequences of ``tokens`` tokens from an empty cache."""

    rows: tuple[ParameterRow, ...]
    tokens: int
    parameters: int
    untied_parameters: int
    bytes: int
    flops_per_token: int


def parameter_rows(config: GPT2Config, *, bytes_per_value: int = 4) -> list[ParameterRow]:
    """Every parameter, with the names, shapes and order of ``GPT2(config).named_parameters()``.

    A weight matrix out×in costs 2·out·in FLOPs per token, E 2·V·D as the head; P, gains and biases none.
    """
    D, F, V, C = config.n_embd, config.mlp_width, config.vocab_size, config.context
    block: dict[str, tuple[int, ...]] = {
        "attention_norm.weight": (D,),
        "attention_norm.bias": (D,),
        "attention.qkv.weight": (3 * D, D),
        "attention.qkv.bias": (3 * D,),
        "attention.output.weight": (D, D),
        "attention.output.bias": (D,),
        "mlp_norm.weight": (D,),
        "mlp_norm.bias": (D,),
        "mlp.up.weight": (F, D),
        "mlp.up.bias": (F,),
        "mlp.down.weight": (D, F),
        "mlp.down.bias": (D,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (V, D),
        "position_embedding.weight": (C, D),
        **{f"blocks.{i}.{name}": shape for i in range(config.n_layer) for name, shape in block.items()},
        "final_norm.weight": (D,),
        "final_norm.bias": (D,),
    }
    return [
        ParameterRow(
            name=name,
            shape=shape,
            parameters=math.prod(shape),
            bytes=math.prod(shape) * bytes_per_value,
            flops_per_token=2 * math.prod(shape) if _is_multiplied(name, shape) else 0,
        )
        for name, shape in shapes.items()
    ]


def _is_multiplied(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and name != "position_embedding.weight"


def cost_table(config: GPT2Config, *, tokens: int | None = None, bytes_per_value: int = 4) -> CostTable:
    """``parameter_rows`` with attention's two products where each block computes them, and the totals.

    ``blocks.i.attention.scores`` is Q Kᵀ (H×T×T) and ``blocks.i.attention.mix`` is its softmax times V (H×T×K), over
    T = ``tokens`` (the whole context C unless given): 2·D·(t + 1) FLOPs each at position t, on average D·(T + 1).
    Raises ``ContextLengthError`` when T > C.
    """
    T = config.context if tokens is None else tokens
    _check_lengths(config, batch=1, tokens=T, past=0)
    H, K = config.n_head, config.head_width
    rows: list[ParameterRow] = []
    for row in parameter_rows(config, bytes_per_value=bytes_per_value):
        rows.append(row)
        if row.name.endswith("attention.qkv.bias"):
            attention = row.name.removesuffix(".qkv.bias")
            for name, shape in (("scores", (H, T, T)), ("mix", (H, T, K))):
                rows.append(
                    ParameterRow(
                        name=f"{attention}.{name}",
                        shape=shape,
                        parameters=0,
                        bytes=0,
                        flops_per_token=config.n_embd * (T + 1),
                    )
                )
    return CostTable(
        rows=tuple(rows),
        tokens=T,
        parameters=parameter_count(config),
        untied_parameters=parameter_count(config, tied=False),
        bytes=weight_bytes(config, bytes_per_value=bytes_per_value),
        flops_per_token=sum(row.flops_per_token for row in rows),
    )


def parameter_count(config: GPT2Config, *, tied: bool = True) -> int:
    """Trainable values: (V + C + 2)·D + L·(4D² + 2DF + 9D + F); ``tied=False`` adds the head's own V·D (paper §6)."""
    D, F, V = config.n_embd, config.mlp_width, config.vocab_size
    block = 4 * D * D + 2 * D * F + 9 * D + F
    count = (V + config.context + 2) * D + config.n_layer * block
    return count if tied else count + V * D


def forward_flops(
    config: GPT2Config, *, batch: int, tokens: int, past: int = 0, last_only: bool = False
) -> int:
    """Matrix-product FLOPs of one forward pass over B sequences of T new tokens after ``past`` cached ones.

    B·(T·(2·(4D² + 2DF)·L) + 4·D·L·Σ_{t=past}^{past+T-1} (t + 1) + N·2·V·D), the head over N = T positions, or over
    N = 1 with ``last_only``. Raises ``ContextLengthError`` when past + T > C.
    """
    _check_lengths(config, batch=batch, tokens=tokens, past=past)
    D, F, V, L = config.n_embd, config.mlp_width, config.vocab_size, config.n_layer
    projections = tokens * 2 * (4 * D * D + 2 * D * F) * L
    query_key_pairs = tokens * past + tokens * (tokens + 1) // 2
    attention = 2 * 2 * D * query_key_pairs * L
    head = (1 if last_only else tokens) * 2 * V * D
    return batch * (projections + attention + head)


def training_flops(config: GPT2Config, *, batch: int, tokens: int) -> int:
    """Matrix-product FLOPs of forward and backward: three times the forward's.

    Each product Y = X W has two in its backward pass, each of its size: dX = dY Wᵀ and dW = Xᵀ dY. Recomputing
    activations (checkpointing) repeats the blocks' forward and is not counted: it is no work of the model's.
    """
    return 3 * forward_flops(config, batch=batch, tokens=tokens)


def weight_bytes(config: GPT2Config, *, bytes_per_value: int = 4) -> int:
    """Bytes of all parameters, E once."""
    return parameter_count(config) * bytes_per_value


def kv_cache_bytes(config: GPT2Config, *, batch: int, tokens: int, bytes_per_value: int = 4) -> int:
    """Bytes of the keys and values of B sequences of T tokens: 2·L·B·T·D values."""
    _check_lengths(config, batch=batch, tokens=tokens, past=0)
    return 2 * config.n_layer * batch * tokens * config.n_embd * bytes_per_value


def _check_lengths(config: GPT2Config, *, batch: int, tokens: int, past: int) -> None:
    if batch < 1 or tokens < 1 or past < 0:
        raise ConfigError(
            f"batch={batch}, tokens={tokens}, past={past} is not possible; "
            "expected batch >= 1, tokens >= 1, past >= 0"
        )
    if past + tokens > config.context:
        raise ContextLengthError(
            f"{past + tokens} tokens are more than the model's context of {config.context}; expected at most that"
        )
