"""Bytes that a training step takes, by formula: what stays, and what comes and goes, at the moment of the peak."""

from __future__ import annotations

from typing import Literal

from gptwo.config import GPT2Config
from gptwo.costs.flops import check_lengths
from gptwo.costs.formats import EMBEDDING, is_matrix
from gptwo.costs.table import (
    block_parameter_count,
    parameter_count,
    parameter_rows,
    root_parameter_count,
)

TrainingDtype = Literal["fp32", "bf16"]
OptimizerName = Literal["adamw", "muon"]

# ``model/head.py``: values of the logits that exist at once, on a CPU and on a GPU.
HEAD_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 26}
# ``model/gelu.py``: values of a piece.
_GELU_PIECE = 1 << 19
# What the process takes on the CPU beside what there is at the peak, for freed memory is kept
# (``base/memory.py:keep_freed_memory``) and blocks of other sizes do not fit into it: a share of all that comes and
# goes in a step, and a share of what could lie, by its size, where the step's other half has lain: gradients and update
# in the place of activations and logits. Measured: docs/decisions/0026-predicting.md.
HOLES, UNSHARED = 0.25, 0.6


def activation_bytes(
    config: GPT2Config,
    *,
    tokens: int | None = None,
    checkpoint_activations: bool,
    fused: bool,
    on_cpu: bool,
    dtype: TrainingDtype = "fp32",
) -> int:
    """Bytes, nearly, that one training sequence of T tokens (C unless given) keeps until its backward pass.

    Per token and block, ``fused`` (``model/fused_linear.py``: a CPU, eager, fp32): x, q k v, attention's output and x',
    6 D, and the MLP's row before GELU, F. Else also the outputs of both norms and of GELU: 8 D + 2 F. With dropout
    two masks, and on a CPU, where torch's attention kernel has no dropout, three T×T squares a head. With bf16 all but
    x and x' are kept in 2 bytes. With checkpointing only the input of each block, and one block in full. Beside the
    blocks: the embedding's sum, both sides of the last norm, and the head's gradient. The head keeps no logits.
    """
    T = config.context if tokens is None else tokens
    check_lengths(config, batch=1, tokens=T, past=0)
    D, F = config.n_embd, config.mlp_width
    size = 4 if dtype == "fp32" else 2
    block = 4 * 2 * D + size * ((4 * D + F) if fused else (6 * D + 2 * F))
    if config.dropout > 0:
        block += 4 * (2 * D + (3 * config.n_head * T if on_cpu else 0))
    blocks = config.n_layer * 4 * D + block if checkpoint_activations else config.n_layer * block
    return T * (blocks + 4 * 4 * D)


def training_memory(
    config: GPT2Config,
    *,
    micro_batch: int,
    tokens: int | None = None,
    micro_batches: int = 1,
    optimizer: OptimizerName = "adamw",
    checkpoint_activations: bool = False,
    fused: bool = True,
    device: Literal["cpu", "cuda"] = "cpu",
    dtype: TrainingDtype = "fp32",
    parameter_ranks: int = 1,
    trained_parameters: int | None = None,
) -> dict[str, int]:
    """Bytes of each part at the moment when a step takes most; their sum is the peak, the process itself apart.

    weights, optimizer   fp32, always there: AdamW's two moments, or Muon's one of the blocks' matrices
    gradients            fp32; before the first block's backward pass of a step's first micro-batch that of E alone
    activations          ``activation_bytes`` of the micro-batch; with bf16 also the matrices that autocast has cast
    logits               the piece of them that the head works on, twice where it has several
    backward             gradients of a block's activations, where they are more than these logits
    gathered             where ranks share parameters: embeddings and last norm, whole until the backward pass ends,
                         and the block that computes next; in a block's backward pass also the one that is fetched
    update               what the optimizer computes with: Muon's directions and their orthogonalised batches
    holes                on a CPU what glibc keeps and nothing fits into: ``HOLES`` of what comes and goes, and
                         ``UNSHARED`` of the smaller of its two halves

    ``parameter_ranks`` share weights, gradients and optimizer (FSDP). ``trained_parameters`` are those of adapters
    beside frozen weights.
    """
    P = parameter_count(config)
    learn = P if trained_parameters is None else trained_parameters
    matrices = sum(r.parameters for r in parameter_rows(config) if is_matrix(r.name) and r.name != EMBEDDING)
    T = config.context if tokens is None else tokens
    activations = micro_batch * activation_bytes(
        config, tokens=T, checkpoint_activations=checkpoint_activations, fused=fused,
        on_cpu=device == "cpu", dtype=dtype,
    )  # fmt: skip
    if dtype == "bf16":
        activations += 2 * (matrices + config.vocab_size * config.n_embd)
    rows, at_once = micro_batch * T, max(1, HEAD_LOGITS[device] // config.vocab_size)
    logits = 4 * config.vocab_size * (rows if rows <= at_once else 2 * at_once)
    of_embedding = 0 if trained_parameters else 4 * config.vocab_size * config.n_embd
    update = _muon_bytes(config, 4 if device == "cpu" else 2) if optimizer == "muon" else 0
    kept = {
        "weights": 4 * (P + (trained_parameters or 0)) // parameter_ranks,
        "optimizer": 4 * (2 * learn - (matrices if optimizer == "muon" else 0)) // parameter_ranks,
    }
    root = 4 * root_parameter_count(config) if parameter_ranks > 1 else 0
    of_block = 4 * block_parameter_count(config) if parameter_ranks > 1 else 0
    head = {
        # The last block is whole already: its backward pass comes next.
        "gathered": root + of_block,
        "gradients": of_embedding + (4 * learn // parameter_ranks if micro_batches > 1 else 0),
        "activations": activations,
        "logits": logits,
    }
    # The last block's MLP: the gradient of GELU, and where it is fused GELU once more, in pieces.
    again = rows * config.mlp_width + 2 * min(rows * config.mlp_width, _GELU_PIECE) if fused else 0
    block = {
        "gathered": root + min(2, config.n_layer) * of_block,
        "gradients": head["gradients"],
        "activations": activations,
        "backward": 4 * (rows * (config.mlp_width + config.n_embd) + again),
    }
    end = {"gradients": 4 * learn // parameter_ranks, "update": update}
    parts = max(head, block, end, key=lambda moment: sum(moment.values()))
    forward = activations + max(logits, block["backward"])
    # The gradient of E is there in both.
    afterwards = end["gradients"] - of_embedding // parameter_ranks + update
    holes = int(HOLES * (forward + update) + UNSHARED * min(forward, afterwards)) if device == "cpu" else 0
    return {
        name: size for name, size in {**kept, **parts, "holes": holes}.items() if size or name != "gathered"
    }


def muon_batches(config: GPT2Config) -> dict[tuple[int, int], int]:
    """How many matrices r×c, r <= c, ``train/muon.py`` takes together: Q, K, V and the output, and the MLP's."""
    D, F, L = config.n_embd, config.mlp_width, config.n_layer
    batches: dict[tuple[int, int], int] = {}
    for shape, count in (((D, D), 4), ((min(D, F), max(D, F)), 2)):
        batches[shape] = batches.get(shape, 0) + count * L
    return batches


def _muon_bytes(config: GPT2Config, size: int) -> int:
    """What ``train/muon.py`` holds at once beside weights, gradients and momentum.

    The directions of all matrices in fp32; then, of the largest batch of matrices r×c of one shape, the stacked
    directions, X, the next X, and G and its polynomial (r×r), each in ``size`` bytes.
    """
    batches = muon_batches(config)
    directions = 4 * sum(r * c * count for (r, c), count in batches.items())
    return directions + max(
        count * (4 * r * c + size * (2 * r * c + 2 * r * r)) for (r, c), count in batches.items()
    )
