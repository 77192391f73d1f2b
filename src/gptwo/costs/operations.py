"""The steps of a forward pass, one after the other, each with what it computes and what it moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gptwo.config import GPT2Config
from gptwo.costs.flops import check_lengths, query_key_pairs
from gptwo.costs.formats import (
    EMBEDDING,
    KVFormat,
    WeightFormat,
    embedding_row_bytes,
    kv_position_bytes,
    matrix_bytes,
    matrix_format,
)

OperationKind = Literal["lookup", "norm", "product", "attention", "softmax", "gelu"]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step of the forward pass over B sequences.

    ``shape`` is its result's. ``parameters`` are those that it owns: E's are the embedding's, though the head reads
    them. ``flops`` are of matrix products. Bytes are what the step reads and writes if each value moves once:
    weights as they are kept, activations in fp32, and keys and values in the cache. Scores and their softmax move
    H·(pairs of query and key) values that an engine may keep within the processor.
    """

    name: str
    kind: OperationKind
    shape: tuple[int, ...]
    parameters: int = 0
    flops: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    kv_bytes: int = 0


def forward_operations(
    config: GPT2Config,
    *,
    batch: int,
    tokens: int,
    past: int = 0,
    last_only: bool = False,
    weights: WeightFormat = "fp32",
    kv: KVFormat = "fp32",
) -> list[Operation]:
    """The steps in the order in which they run, for T new tokens of each of B sequences after ``past`` cached ones.

    FLOPs sum up to ``forward_flops``, parameters to ``parameter_count``. The embedding reads B·T rows of E and T of
    P; the head reads E whole. Each sequence's cached keys and values are read once, its new ones written and read.
    Raises ``ContextLengthError`` when past + T > C, ``ConfigError`` for an unknown format.
    """
    check_lengths(config, batch=batch, tokens=tokens, past=past)
    D, V, B, T = config.n_embd, config.vocab_size, batch, tokens
    N = 1 if last_only else T
    steps = [
        Operation(
            name="embedding",
            kind="lookup",
            shape=(B, T, D),
            parameters=(V + config.context) * D,
            weight_bytes=B * T * embedding_row_bytes(weights, D) + 4 * T * D,
            activation_bytes=4 * B * T * D,
        )
    ]
    for i in range(config.n_layer):
        steps += _block(config, f"blocks.{i}", B, T, past, weights, kv)
    head = Operation(
        name="head",
        kind="product",
        shape=(B, N, V),
        flops=2 * B * N * D * V,
        weight_bytes=matrix_bytes(matrix_format(EMBEDDING, weights), V, D),
        activation_bytes=4 * B * N * (D + V),
    )
    return [*steps, _norm("final_norm", (B, N, D)), head]


def _block(  # noqa: PLR0917 - all of forward_operations'
    config: GPT2Config, name: str, B: int, T: int, past: int, weights: WeightFormat, kv: KVFormat
) -> Iterator[Operation]:
    D, F, H = config.n_embd, config.mlp_width, config.n_head
    S, pairs = past + T, B * query_key_pairs(T, past)
    of_token = B * kv_position_bytes(config, kv)

    def product(
        part: str, inputs: int, outputs: int, *, residual: bool = False, kv_bytes: int = 0
    ) -> Operation:
        return Operation(
            name=f"{name}.{part}",
            kind="product",
            shape=(B, T, outputs),
            parameters=outputs * inputs + outputs,
            flops=2 * B * T * inputs * outputs,
            weight_bytes=matrix_bytes(weights, outputs, inputs) + 4 * outputs,
            activation_bytes=4 * B * T * (inputs + outputs * (2 if residual else 1)),
            kv_bytes=kv_bytes,
        )

    yield _norm(f"{name}.attention_norm", (B, T, D))
    yield product("attention.qkv", D, 3 * D, kv_bytes=2 * T * of_token)
    for part, shape in (("scores", (B, H, T, S)), ("softmax", (B, H, T, S)), ("mix", (B, T, D))):
        multiplies = part != "softmax"
        yield Operation(
            name=f"{name}.attention.{part}",
            kind="attention" if multiplies else "softmax",
            shape=shape,
            flops=2 * D * pairs if multiplies else 0,
            activation_bytes=4 * (B * T * D + H * pairs if multiplies else 2 * H * pairs),
            kv_bytes=S * of_token if multiplies else 0,
        )
    yield product("attention.output", D, D, residual=True)
    yield _norm(f"{name}.mlp_norm", (B, T, D))
    yield product("mlp.up", D, F)
    yield Operation(name=f"{name}.mlp.gelu", kind="gelu", shape=(B, T, F), activation_bytes=8 * B * T * F)
    yield product("mlp.down", F, D, residual=True)


def _norm(name: str, shape: tuple[int, int, int]) -> Operation:
    B, N, D = shape
    return Operation(
        name=name,
        kind="norm",
        shape=shape,
        parameters=2 * D,
        weight_bytes=8 * D,
        activation_bytes=8 * B * N * D,
    )
