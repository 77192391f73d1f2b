"""The parameters of a configuration, each with its shape, bytes and FLOPs, and the table of ``gptwo info``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gptwo.config import GPT2Config
from gptwo.costs.flops import check_lengths


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
    check_lengths(config, batch=1, tokens=T, past=0)
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
    count = root_parameter_count(config) + config.n_layer * block_parameter_count(config)
    return count if tied else count + config.vocab_size * config.n_embd


def root_parameter_count(config: GPT2Config) -> int:
    """Of the values those outside the blocks, embeddings and last norm: (V + C + 2)·D."""
    return (config.vocab_size + config.context + 2) * config.n_embd


def block_parameter_count(config: GPT2Config) -> int:
    """Of the values those of one block: 4D² + 2DF + 9D + F."""
    D, F = config.n_embd, config.mlp_width
    return 4 * D * D + 2 * D * F + 9 * D + F


def weight_bytes(config: GPT2Config, *, bytes_per_value: int = 4) -> int:
    """Bytes of all parameters, E once."""
    return parameter_count(config) * bytes_per_value
