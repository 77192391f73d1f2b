"""What this machine's matrix products reach at a model's own shapes: what a training step is held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from gptwo.base.device import wait
from gptwo.config import GPT2Config
from gptwo.model import products

# Rows and columns at which a product is measured, at most: more of them change its speed little, and its time a lot.
_ROWS = 256
_COLUMNS = 4096
# Seconds over which the products are repeated, after one pass that warms up.
_BUDGET_S = 0.3


@cache
def matmul_ceiling(config: GPT2Config, *, rows: int, device: torch.device, dtype: str = "fp32") -> float:
    """FLOP/s of the products of one training step and nothing else: of each linear layer and of the head Y, dX and dW.

    ``rows`` are the tokens of a micro-batch; ``dtype`` is "fp32" or "bf16". The fastest pass of each product counts, by
    the faster of torch's ``mm`` and the kernel that the model uses; each product weighs as often as the model runs it.
    Attention's own products are not among them. Takes half a second for GPT-2 124M, once per process.
    """
    D, F = config.n_embd, config.mlp_width
    N, L = min(rows, _ROWS), config.n_layer
    V = min(config.vocab_size, _COLUMNS)
    value_type = torch.bfloat16 if dtype == "bf16" else torch.float32
    # Inputs, outputs, and how often the model has the layer. The head is measured at V columns and counted at all.
    layers = [(D, 3 * D, L), (D, D, L), (D, F, L), (F, D, L), (D, V, config.vocab_size / V)]
    passes = [
        (product, 2 * N * inputs * outputs, times)
        for inputs, outputs, times in layers
        for product in _products(N, inputs, outputs, device, value_type)
    ]
    best = [float("inf")] * len(passes)
    with torch.no_grad():
        for ways, _, _ in passes:
            for way in ways:
                _seconds(way, device)
        end = time.perf_counter() + _BUDGET_S
        while best[-1] == float("inf") or time.perf_counter() < end:
            for index, (ways, _, _) in enumerate(passes):
                best[index] = min(best[index], *(_seconds(way, device) for way in ways))
    flops = sum(count * times for _, count, times in passes)
    return flops / sum(seconds * times for seconds, (_, _, times) in zip(best, passes, strict=True))


def _products(
    N: int, inputs: int, outputs: int, device: torch.device, dtype: torch.dtype
) -> list[list[Callable[[], object]]]:
    """Y, dX and dW of one linear layer, each in every way that there is."""

    def drawn(*shape: int) -> Tensor:
        return torch.empty(shape, device=device, dtype=dtype).uniform_(-1.0, 1.0)

    x, W, y = drawn(N, inputs), drawn(outputs, inputs), drawn(N, outputs)
    y_out, x_out, W_out = torch.empty_like(y), torch.empty_like(x), torch.empty_like(W)
    ways: list[list[Callable[[], object]]] = [
        [lambda: torch.mm(x, W.t(), out=y_out)],
        [lambda: torch.mm(y, W, out=x_out)],
        [lambda: torch.mm(y.t(), x, out=W_out)],
    ]
    if products.uses_onednn(x):
        ways[0].append(lambda: products.linear(x, W, None))
        ways[1].append(lambda: products.input_gradient(y, W))
    return ways


def _seconds(way: Callable[[], object], device: torch.device) -> float:
    wait(device)
    began = time.perf_counter()
    way()
    wait(device)
    return time.perf_counter() - began
