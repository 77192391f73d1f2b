"""GPT-2 as everyone runs it: fused QKV, the built-in attention, dropout, a KV cache on request.

Equal to ``equations.py`` and to the released model; ``tests/unit/model/test_gpt2.py`` proves both.
Read from the bottom up: ``GPT2`` is Δ E + P, then L ``Block``s, then LN and Eᵀ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptwo.base.errors import ContextLengthError
from gptwo.config import GPT2Config
from gptwo.model.fused_linear import applies, gelu_linear, linear, norm_linear
from gptwo.model.head import NOT_PREDICTED, look_up, summed_cross_entropy

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class Cache(Protocol):
    """Keys and values of the tokens already seen, per layer. ``infer/kv_cache.py`` is one."""

    @property
    def length(self) -> int:
        """Tokens already held, by the row that holds most, or more where ``lengths`` says what each holds."""

    @property
    def lengths(self) -> Int[Tensor, " B"] | None:
        """Tokens that each row holds, where they differ; None when every row holds ``length``."""

    def append(
        self, layer: int, k_BHTK: Float[Tensor, "B H T K"], v_BHTK: Float[Tensor, "B H T K"]
    ) -> tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]:
        """Store T new keys and values after those of each row and return all: S = length + T, a shorter row padded."""

    def advance(self, count: int) -> None:
        """The ``count`` tokens that every layer has appended are now part of ``length``."""


class Attention(nn.Module):
    """A = Concat(A_1 … A_H) W_0 with W_Q, W_K, W_V of all heads stored as one matrix (paper §3)."""

    def __init__(self, config: GPT2Config, *, device: torch.device | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        D = config.n_embd
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.qkv = nn.Linear(D, 3 * D, device=device, dtype=dtype)
        self.output = nn.Linear(D, D, device=device, dtype=dtype)

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        layer: int,
        cache: Cache | None,
        mask_B1TS: Bool[Tensor, "B 1 T S"] | None = None,
        norm: nn.Module | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Of x, or of ``norm`` of x."""
        B, T, D = x_BTD.shape
        qkv_BTE = linear(x_BTD, self.qkv) if norm is None else norm_linear(x_BTD, norm, self.qkv)
        qkv_3BHTK = qkv_BTE.view(B, T, 3, self.n_head, D // self.n_head).permute(2, 0, 3, 1, 4)
        q_BHTK, k_BHSK, v_BHSK = qkv_3BHTK.unbind(0)
        if cache is not None:
            k_BHSK, v_BHSK = cache.append(layer, k_BHSK, v_BHSK)
        S = k_BHSK.shape[2]
        # The built-in's own causal flag aligns T×S at the top left; queries that come after S - T cached keys
        # need the diagonal at the bottom right. A single query sees everything.
        mask = mask_B1TS
        if mask is None and 1 < T < S:
            mask = torch.ones(T, S, dtype=torch.bool, device=x_BTD.device).tril(S - T)
        a_BHTK = F.scaled_dot_product_attention(
            q_BHTK,
            k_BHSK,
            v_BHSK,
            attn_mask=mask,
            is_causal=mask is None and T > 1,
            dropout_p=self.dropout if self.training else 0.0,
        )
        output_BTD = linear(a_BHTK.transpose(1, 2).reshape(B, T, D), self.output)
        return F.dropout(output_BTD, self.dropout, self.training)


class MLP(nn.Module):
    """W_2 GELU(W_1 x), GELU in its tanh form (paper §4.2)."""

    def __init__(self, config: GPT2Config, *, device: torch.device | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.up = nn.Linear(config.n_embd, config.mlp_width, device=device, dtype=dtype)
        self.down = nn.Linear(config.mlp_width, config.n_embd, device=device, dtype=dtype)

    def forward(self, x_BTD: Float[Tensor, "B T D"], norm: nn.Module | None = None) -> Float[Tensor, "B T D"]:
        """Of x, or of ``norm`` of x."""
        z_BTF = linear(x_BTD, self.up) if norm is None else norm_linear(x_BTD, norm, self.up)
        y_BTD = gelu_linear(z_BTF, self.down)
        return F.dropout(y_BTD, self.dropout, self.training)


class Block(nn.Module):
    """X' = X + Attention(LN(X)), Y = X' + MLP(LN(X')) (paper §4)."""

    def __init__(self, config: GPT2Config, *, device: torch.device | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        D, epsilon = config.n_embd, config.layer_norm_epsilon
        self.attention_norm = nn.LayerNorm(D, eps=epsilon, device=device, dtype=dtype)
        self.attention = Attention(config, device=device, dtype=dtype)
        self.mlp_norm = nn.LayerNorm(D, eps=epsilon, device=device, dtype=dtype)
        self.mlp = MLP(config, device=device, dtype=dtype)

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        layer: int,
        cache: Cache | None,
        mask_B1TS: Bool[Tensor, "B 1 T S"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        x_BTD = x_BTD + self.attention(x_BTD, layer, cache, mask_B1TS, self.attention_norm)
        x_BTD = x_BTD + self.mlp(x_BTD, self.mlp_norm)
        return x_BTD


def document_starts(documents: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Where in its row the document of each position begins; documents lie one after the other, each its own number."""
    index_T = torch.arange(documents.shape[1], device=documents.device)
    begins_BT = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0))
    return (index_T * begins_BT).cummax(dim=1).values


class GPT2(nn.Module):
    """L = LN(X_out) Eᵀ over L blocks; the head is E itself and has no parameters of its own (paper §2-§6).

    ``device`` and ``dtype`` are of the parameters; weights are torch's defaults until ``init.initialise`` or a
    checkpoint fills them (``init.build_model``). With ``checkpoint_activations`` training keeps only the input
    of each block and computes the rest again in the backward pass: less memory, a third more work.
    """

    def __init__(
        self,
        config: GPT2Config,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = checkpoint_activations
        place = torch.device(device) if device is not None else None
        D = config.n_embd
        self.token_embedding = nn.Embedding(config.vocab_size, D, device=place, dtype=dtype)
        self.position_embedding = nn.Embedding(config.context, D, device=place, dtype=dtype)
        self.blocks = nn.ModuleList(Block(config, device=place, dtype=dtype) for _ in range(config.n_layer))
        self.final_norm = nn.LayerNorm(D, eps=config.layer_norm_epsilon, device=place, dtype=dtype)

    def residual(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        cache: Cache | None = None,
        documents: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """LN(X_out): what the head multiplies by Eᵀ. Raises ``ContextLengthError`` past C positions.

        ``documents`` numbers the documents packed side by side in each row: each is then computed as if it stood alone,
        with positions from 0 and attention to itself only. Not together with a cache.
        """
        return self._residual_and_embedding(tokens, cache, documents)[0]

    def _residual_and_embedding(
        self, tokens: Int[Tensor, "B T"], cache: Cache | None, documents: Int[Tensor, "B T"] | None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "V D"]]:
        """The residual, and the E that the head is to take, whose gradient then meets that of the look-up."""
        T = tokens.shape[1]
        past = cache.length if cache is not None else 0
        lengths_B = cache.lengths if cache is not None else None
        if past + T > self.config.context:
            raise ContextLengthError(
                f"{past + T} tokens are more than the model's context of {self.config.context}; shorten the text"
            )
        # A slice of P needs no arange, which is what most often lands on the wrong device (paper §8).
        E_VD = self.token_embedding.weight
        if applies(E_VD, self.token_embedding):
            x_BTD, E_VD = look_up(tokens, E_VD)
        else:
            x_BTD = self.token_embedding(tokens)
        mask_B1TS = None
        if lengths_B is not None:
            positions_BT = lengths_B[:, None] + torch.arange(T, device=tokens.device)
            x_BTD = x_BTD + self.position_embedding(positions_BT)
            mask_B1TS = positions_BT[:, None, :, None] >= torch.arange(past + T, device=tokens.device)
        elif documents is None:
            x_BTD = x_BTD + self.position_embedding.weight[past : past + T]
        else:
            starts_BT = document_starts(documents)
            positions_BT = torch.arange(T, device=tokens.device) - starts_BT
            x_BTD = x_BTD + self.position_embedding(positions_BT)
            mask_B1TS = (starts_BT[:, None, :, None] == starts_BT[:, None, None, :]).tril()
        x_BTD = F.dropout(x_BTD, self.config.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            if self.checkpoint_activations and self.training and cache is None:
                x_BTD = checkpoint(block, x_BTD, layer, None, mask_B1TS, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, layer, cache, mask_B1TS)
        if cache is not None:
            cache.advance(T)
        normed_BTD: Tensor = self.final_norm(x_BTD)
        return normed_BTD, E_VD

    def forward(
        self, tokens: Int[Tensor, "B T"], *, cache: Cache | None = None, last_only: bool = False
    ) -> Float[Tensor, "B T V"]:
        """Logits of every position, or of the last one alone (B×1×V) with ``last_only``.

        With a ``cache`` the tokens follow those that it holds, and are added to it.
        """
        x_BTD = self.residual(tokens, cache=cache)
        return F.linear(x_BTD[:, -1:] if last_only else x_BTD, self.token_embedding.weight)

    def loss(
        self,
        tokens: Int[Tensor, "B T"],
        targets: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> Tensor:
        """Cross entropy of the targets in nats: mean or sum over those that are predicted, or each (B·T values).

        A target of ``NOT_PREDICTED`` adds 0 and is not counted. ``documents`` as for ``residual``.
        """
        x_BTD, E_VD = self._residual_and_embedding(tokens, None, documents)
        if reduction != "none":
            loss: Tensor = summed_cross_entropy(x_BTD.flatten(0, 1), E_VD, targets.flatten())
            return loss / (targets != NOT_PREDICTED).sum() if reduction == "mean" else loss
        logits = F.linear(x_BTD, E_VD).flatten(0, 1)
        return F.cross_entropy(
            logits.float() if logits.dtype != torch.float64 else logits,
            targets.flatten(),
            ignore_index=NOT_PREDICTED,
            reduction=reduction,
        )
