"""Floating-point operations of a forward pass and of a training step, by formula. Exact integers.

FLOPs are those of matrix products alone, 2 per multiply-add, as model FLOPs utilisation is usually stated. A query
at position t meets the t + 1 keys that it may look at, and no masked ones (a kernel that multiplies the whole T×T
square does more than is counted). E is used twice and multiplied once: as the head; the embedding is a look-up.
Not counted: biases, residual additions, layer norms, GELU, softmax, dropout, the loss and the optimizer. They are
bound by memory, not by arithmetic, and grow with D and F, not with their products.
"""

from __future__ import annotations

from gptwo.base.errors import ConfigError, ContextLengthError
from gptwo.config import GPT2Config


def forward_flops(
    config: GPT2Config, *, batch: int, tokens: int, past: int = 0, last_only: bool = False
) -> int:
    """Matrix-product FLOPs of one forward pass over B sequences of T new tokens after ``past`` cached ones.

    B·(T·(2·(4D² + 2DF)·L) + 4·D·L·Σ_{t=past}^{past+T-1} (t + 1) + N·2·V·D), the head over N = T positions, or over
    N = 1 with ``last_only``. Raises ``ContextLengthError`` when past + T > C.
    """
    check_lengths(config, batch=batch, tokens=tokens, past=past)
    D, F, V, L = config.n_embd, config.mlp_width, config.vocab_size, config.n_layer
    projections = tokens * 2 * (4 * D * D + 2 * D * F) * L
    attention = 2 * 2 * D * query_key_pairs(tokens, past) * L
    head = (1 if last_only else tokens) * 2 * V * D
    return batch * (projections + attention + head)


def query_key_pairs(tokens: int, past: int) -> int:
    """Σ_{t=past}^{past+T-1} (t + 1): the keys that the T new queries of a sequence look at, together."""
    return tokens * past + tokens * (tokens + 1) // 2


def training_flops(config: GPT2Config, *, batch: int, tokens: int) -> int:
    """Matrix-product FLOPs of forward and backward: three times the forward's.

    Each product Y = X W has two in its backward pass, each of its size: dX = dY Wᵀ and dW = Xᵀ dY. Recomputing
    activations (checkpointing) repeats the blocks' forward and is not counted: it is no work of the model's.
    """
    return 3 * forward_flops(config, batch=batch, tokens=tokens)


def check_lengths(config: GPT2Config, *, batch: int, tokens: int, past: int) -> None:
    """``ConfigError`` for lengths that cannot be, ``ContextLengthError`` past C."""
    if batch < 1 or tokens < 1 or past < 0:
        raise ConfigError(
            f"batch={batch}, tokens={tokens}, past={past} is not possible; "
            "expected batch >= 1, tokens >= 1, past >= 0"
        )
    if past + tokens > config.context:
        raise ContextLengthError(
            f"{past + tokens} tokens are more than the model's context of {config.context}; expected at most that"
        )
