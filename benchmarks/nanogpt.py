"""The peer: nanoGPT's recipe for Shakespeare on a CPU, written plainly from its README and settings; no gptwo in it.

Source: https://github.com/karpathy/nanoGPT, `config/train_shakespeare_char.py` with the README's flags for a CPU.
"""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS, HEADS, WIDTH, CONTEXT, SEQUENCES, STEPS = 4, 4, 128, 64, 12, 2000
LR, MIN_LR, WARMUP_STEPS, BETAS, WEIGHT_DECAY, GRAD_CLIP = 1e-3, 1e-4, 100, (0.9, 0.99), 0.1, 1.0


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = Norm(WIDTH), Norm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.output = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = (
            part.view(B, T, HEADS, D // HEADS).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).split(D, dim=2)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class NanoGPT(nn.Module):
    """0.8M parameters without biases, exact GELU, the head tied to the embedding, no dropout."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, WIDTH)
        self.position_embedding = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.final_norm = Norm(WIDTH)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)

    def loss(self, tokens: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        x = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.final_norm(x), self.token_embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


def learning_rate(step: int, steps: int) -> float:
    if step < WARMUP_STEPS:
        return LR * (step + 1) / (WARMUP_STEPS + 1)
    progress = (step - WARMUP_STEPS) / (steps - WARMUP_STEPS)
    return MIN_LR + 0.5 * (1 + math.cos(math.pi * progress)) * (LR - MIN_LR)


def train(
    text: Tensor,
    vocab_size: int,
    *,
    seed: int,
    steps: int = STEPS,
) -> tuple[NanoGPT, list[tuple[float, float]]]:
    """The model after ``steps`` steps on the ids ``text``, and after each step the seconds so far and its loss."""
    torch.manual_seed(seed)
    model = NanoGPT(vocab_size)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=LR,
        betas=BETAS,
    )
    seconds = 0.0
    curve = []
    for step in range(steps):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        starts = torch.randint(len(text) - CONTEXT, (SEQUENCES,)).tolist()
        tokens = torch.stack([text[i : i + CONTEXT] for i in starts])
        targets = torch.stack([text[i + 1 : i + 1 + CONTEXT] for i in starts])
        loss = model.loss(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, GRAD_CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds += time.perf_counter() - began
        curve.append((seconds, loss.item()))
    return model, curve


@torch.no_grad()
def evaluate(model: NanoGPT, text: Tensor) -> float:
    """Nats per token over all of ``text``, from windows of the context side by side; the first token is given."""
    nats = 0.0
    for start in range(0, len(text) - 1, CONTEXT):
        piece = text[start : start + CONTEXT + 1]
        nats += float(model.loss(piece[None, :-1], piece[None, 1:], reduction="sum"))
    return nats / (len(text) - 1)
