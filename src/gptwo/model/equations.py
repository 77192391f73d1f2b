"""The paper, §2-§5: one function per formula, in its letters, nothing fused. The oracle that everything equals.

Symbols (one sequence, no batch; ``docs/notation.md``):

    Δ     T×V   one-hot rows of the tokens          W_Q^h, W_K^h, W_V^h   D×K   one head's projections, K = D/H
    E     V×D   token matrix, tied with the head    W_0                   D×D   output projection of attention
    P     C×D   learned positions                   W_1, W_2              D×F, F×D   the MLP
    X     T×D   the residual stream                 γ, β                  D     gain and shift of a layer norm
    M     T×T   causal mask: 0 on and below the diagonal, -∞ above

Biases (b_Q …) are part of GPT-2 though the paper leaves them out of its formulas. Everything is differentiable
and runs in the dtype and on the device of its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class HeadWeights(NamedTuple):
    """One head: W_Q, W_K, W_V (D×K) and their biases (K)."""

    W_Q: Tensor
    b_Q: Tensor
    W_K: Tensor
    b_K: Tensor
    W_V: Tensor
    b_V: Tensor


class BlockWeights(NamedTuple):
    """One block: γ₁ β₁, its H heads, W_0 b_0, γ₂ β₂, W_1 b_1, W_2 b_2."""

    gamma_1: Tensor
    beta_1: Tensor
    heads: Sequence[HeadWeights]
    W_0: Tensor
    b_0: Tensor
    gamma_2: Tensor
    beta_2: Tensor
    W_1: Tensor
    b_1: Tensor
    W_2: Tensor
    b_2: Tensor


class Weights(NamedTuple):
    """The whole model: E, P, the L blocks, and γ β of the last layer norm."""

    E: Tensor
    P: Tensor
    blocks: Sequence[BlockWeights]
    gamma: Tensor
    beta: Tensor


# --- §2 Embedding -----------------------------------------------------------------------------------------------------


def one_hot(tokens: Int[Tensor, " T"], E: Float[Tensor, "V D"]) -> Float[Tensor, "T V"]:
    """Δ: row t is 1 at column tokens[t] and 0 elsewhere, like E in dtype and device."""
    columns = torch.arange(E.shape[0], device=E.device)
    return (tokens[:, None] == columns).to(E.dtype)


def embed(
    Delta: Float[Tensor, "T V"], E: Float[Tensor, "V D"], P: Float[Tensor, "C D"]
) -> Float[Tensor, "T D"]:
    """X = Δ E + P, the first T rows of P."""
    return Delta @ E + P[: Delta.shape[0]]


# --- §3.1 Multi-head attention ----------------------------------------------------------------------------------------


def causal_mask(X: Float[Tensor, "T D"]) -> Float[Tensor, "T T"]:
    """M: 0 on and below the diagonal, -∞ above."""
    T = X.shape[0]
    return torch.full((T, T), -math.inf, dtype=X.dtype, device=X.device).triu(diagonal=1)


def softmax(Z: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
    """softmax(z)_i = exp(z_i - max z) / Σ_j exp(z_j - max z); the shift changes nothing but overflow."""
    exponentials = (Z - Z.max(dim=-1, keepdim=True).values).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


def attention_weights(
    Q_h: Float[Tensor, "T K"], K_h: Float[Tensor, "T K"], M: Float[Tensor, "T T"]
) -> Float[Tensor, "T T"]:
    """softmax(Q_h K_hᵀ / √(D/H) + M): row t is the distribution over the tokens that t looks at."""
    return softmax(Q_h @ K_h.T / math.sqrt(Q_h.shape[1]) + M)


def attention_head(
    X: Float[Tensor, "T D"], head: HeadWeights, M: Float[Tensor, "T T"]
) -> Float[Tensor, "T K"]:
    """A_h = softmax(Q_h K_hᵀ / √(D/H) + M) V_h with Q_h = X W_Q^h, K_h = X W_K^h, V_h = X W_V^h."""
    Q_h = X @ head.W_Q + head.b_Q
    K_h = X @ head.W_K + head.b_K
    V_h = X @ head.W_V + head.b_V
    return attention_weights(Q_h, K_h, M) @ V_h


def multi_head_attention(X: Float[Tensor, "T D"], block: BlockWeights) -> Float[Tensor, "T D"]:
    """A = Concat(A_1 … A_H) W_0."""
    M = causal_mask(X)
    A = [attention_head(X, head, M) for head in block.heads]
    return torch.cat(A, dim=1) @ block.W_0 + block.b_0


# --- §4 The two sub-layers --------------------------------------------------------------------------------------------


def layer_norm(
    X: Float[Tensor, "T D"], gamma: Float[Tensor, " D"], beta: Float[Tensor, " D"], epsilon: float
) -> Float[Tensor, "T D"]:
    """LN(x) = γ (x - mean x) / √(var x + ε) + β, over the width, with the biased variance."""
    mean = X.mean(dim=-1, keepdim=True)
    variance = ((X - mean) ** 2).mean(dim=-1, keepdim=True)
    return gamma * (X - mean) / torch.sqrt(variance + epsilon) + beta


def attention_sublayer(X: Float[Tensor, "T D"], block: BlockWeights, epsilon: float) -> Float[Tensor, "T D"]:
    """§4.1: X' = X + Attention(LN(X))."""
    return X + multi_head_attention(layer_norm(X, block.gamma_1, block.beta_1, epsilon), block)


def gelu(Z: Tensor) -> Tensor:
    """GPT-2's GELU, the tanh form: ½ z (1 + tanh(√(2/π) (z + 0.044715 z³)))."""
    return 0.5 * Z * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (Z + 0.044715 * Z**3)))


def mlp_sublayer(X: Float[Tensor, "T D"], block: BlockWeights, epsilon: float) -> Float[Tensor, "T D"]:
    """§4.2: Y = X' + W_2 GELU(W_1 LN(X')), written here for rows: GELU(LN(X') W_1 + b_1) W_2 + b_2."""
    Z = layer_norm(X, block.gamma_2, block.beta_2, epsilon) @ block.W_1 + block.b_1
    return X + gelu(Z) @ block.W_2 + block.b_2


# --- §5 Unembedding and sampling --------------------------------------------------------------------------------------


def unembed(X: Float[Tensor, "T D"], weights: Weights, epsilon: float) -> Float[Tensor, "T V"]:
    """L = LN(X_out) Eᵀ: the same E as in the embedding."""
    return layer_norm(X, weights.gamma, weights.beta, epsilon) @ weights.E.T


def forward(tokens: Int[Tensor, " T"], weights: Weights, epsilon: float) -> Float[Tensor, "T V"]:
    """Logits of every position: embedding, L blocks, unembedding."""
    X = embed(one_hot(tokens, weights.E), weights.E, weights.P)
    for block in weights.blocks:
        X = attention_sublayer(X, block, epsilon)
        X = mlp_sublayer(X, block, epsilon)
    return unembed(X, weights, epsilon)


def cross_entropy(logits: Float[Tensor, "T V"], targets: Int[Tensor, " T"]) -> Float[Tensor, ""]:
    """Mean over t of -log softmax(logits_t)[targets_t], in nats per token."""
    one_hot_targets = targets[:, None] == torch.arange(logits.shape[1], device=logits.device)
    return -softmax(logits)[one_hot_targets].log().mean()


def temperature(logits: Float[Tensor, " V"], tau: float) -> Float[Tensor, " V"]:
    """z / τ: τ < 1 sharpens the distribution, τ > 1 flattens it."""
    return logits / tau


def top_k(logits: Float[Tensor, " V"], k: int) -> Float[Tensor, " V"]:
    """Keep the logits that reach the k-th largest (ties stay), -∞ for the rest."""
    threshold = logits.sort(descending=True).values[min(k, len(logits)) - 1]
    return torch.where(logits < threshold, -math.inf, logits)


def top_p(logits: Float[Tensor, " V"], p: float) -> Float[Tensor, " V"]:
    """Keep the fewest most probable tokens whose probabilities reach p (always one), -∞ for the rest."""
    order = logits.argsort(descending=True, stable=True)
    probabilities = softmax(logits)[order]
    # The mass before a token is less than p when what is left from it on is more than 1 - p. Summed from the small
    # end, so that p = 1 keeps a token of probability 1e-30, which a sum from the large end rounds away.
    mass_left = probabilities.flip(0).cumsum(dim=0).flip(0)
    keep = mass_left > 1 - p
    keep[0] = True
    return torch.full_like(logits, -math.inf).scatter(0, order[keep], logits[order[keep]])


def next_token_distribution(
    logits: Float[Tensor, " V"], *, tau: float = 1.0, k: int | None = None, p: float | None = None
) -> Float[Tensor, " V"]:
    """softmax of the logits after temperature, then top-k, then top-p."""
    logits = temperature(logits, tau)
    if k is not None:
        logits = top_k(logits, k)
    if p is not None:
        logits = top_p(logits, p)
    return softmax(logits)


# --- §3.2 From the fused storage to the paper's matrices --------------------------------------------------------------


def paper_weights(parameters: Mapping[str, Tensor], n_layer: int, n_head: int) -> Weights:
    """The paper's matrices as views of ``gpt2.GPT2``'s parameters, which are stored out×in with the heads fused.

    Views keep the graph: a gradient taken through ``forward`` arrives in the fused parameters.
    """

    def block(i: int) -> BlockWeights:
        def of(name: str) -> Tensor:
            return parameters[f"blocks.{i}.{name}"]

        W_QKV = of("attention.qkv.weight").T.chunk(3, dim=1)
        b_QKV = of("attention.qkv.bias").chunk(3)
        W_heads = [W.chunk(n_head, dim=1) for W in W_QKV]
        b_heads = [b.chunk(n_head) for b in b_QKV]
        heads = [
            HeadWeights(*(part for W, b in zip(W_heads, b_heads, strict=True) for part in (W[h], b[h])))
            for h in range(n_head)
        ]
        return BlockWeights(
            gamma_1=of("attention_norm.weight"),
            beta_1=of("attention_norm.bias"),
            heads=heads,
            W_0=of("attention.output.weight").T,
            b_0=of("attention.output.bias"),
            gamma_2=of("mlp_norm.weight"),
            beta_2=of("mlp_norm.bias"),
            W_1=of("mlp.up.weight").T,
            b_1=of("mlp.up.bias"),
            W_2=of("mlp.down.weight").T,
            b_2=of("mlp.down.bias"),
        )

    return Weights(
        E=parameters["token_embedding.weight"],
        P=parameters["position_embedding.weight"],
        blocks=[block(i) for i in range(n_layer)],
        gamma=parameters["final_norm.weight"],
        beta=parameters["final_norm.bias"],
    )
