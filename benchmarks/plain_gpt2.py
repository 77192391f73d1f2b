"""GPT-2 as plain PyTorch writes it, in the manner of nanoGPT: a peer of ``step.py``, no part of the package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptwo.config import GPT2Config


class Block(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        D, F_width = config.n_embd, config.mlp_width
        self.n_head = config.n_head
        self.attention_norm = nn.LayerNorm(D)
        self.qkv, self.output = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.mlp_norm = nn.LayerNorm(D)
        self.up, self.down = nn.Linear(D, F_width), nn.Linear(F_width, D)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).split(D, dim=2)
        q, k, v = (part.view(B, T, self.n_head, D // self.n_head).transpose(1, 2) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).contiguous().view(B, T, D))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class PlainGPT2(nn.Module):
    """Logits in full, cross entropy, gradients by autograd; parameters in the order of ``gptwo.model.GPT2``'s."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions = nn.Embedding(config.context, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))
