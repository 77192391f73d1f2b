"""How fast matrix products are on a device: large ones, and those of a model's own shapes, by every kernel there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np
import torch

from gptwo.kernels.layout import PackedDtype, pack
from gptwo.kernels.library import Kernels
from gptwo.model import products
from gptwo.perf.clock import Work, device_clock, least_seconds

_TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The dtypes of products that are measured on each kind of device.
_OF_DEVICE = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16"), "mps": ("fp32", "bf16", "fp16")}


class Shape(NamedTuple):
    """Y = X Wᵀ of X, rows × inputs, and W, outputs × inputs: 2 · rows · inputs · outputs FLOPs."""

    rows: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inputs * self.outputs


# Products of whole numbers are so fast that it matters to them which pages of memory they got: 10% between processes.
_COPIES = 4
# A side of the large product: 34 GFLOP on a GPU take it a millisecond or less.
LARGE = {"cpu": Shape(1024, 1536, 1536), "cuda": Shape(8192, 8192, 8192), "mps": Shape(4096, 4096, 4096)}
# GPT-2 124M's own, with as many rows as change their speed no more; the head at as many of its 50,257 columns.
_ROWS = {"cpu": 256, "cuda": 4096, "mps": 2048}
MODEL_PRODUCTS = {
    "attention.qkv": (768, 2304),
    "attention.output": (768, 768),
    "mlp.up": (768, 3072),
    "mlp.down": (3072, 768),
    "head": (768, 8192),
}


def model_shapes(device: torch.device) -> dict[str, Shape]:
    """The products of a block of GPT-2 124M and of its head, by their names in ``costs``."""
    return {name: Shape(_ROWS[device.type], *sizes) for name, sizes in MODEL_PRODUCTS.items()}


def flops_per_s(
    shapes: Sequence[Shape],
    device: torch.device,
    kernels: Kernels | None,
    *,
    dtypes: Sequence[str] | None = None,
    budget_s: float,
) -> dict[str, list[float]]:
    """FLOP/s of each shape, by dtype: the fastest of torch's ways and, on the CPU, of the native kernels'.

    Of those of ``dtypes`` that there are, all unless given. ``kernels`` None leaves the native ones out, and with them
    int8 and int4, which they alone have.
    """
    native = get_args(PackedDtype) if kernels is not None and device.type == "cpu" else ()
    names = [
        name
        for name in dict.fromkeys((*_OF_DEVICE[device.type], *native))
        if dtypes is None or name in dtypes
    ]
    ways: dict[tuple[str, int], list[Work]] = {}
    for dtype in names:
        for i, shape in enumerate(shapes):
            ways[dtype, i] = _torch_ways(shape, device, dtype) if dtype in _OF_DEVICE[device.type] else []
            if kernels is not None and dtype in native:
                copies = 1 if ways[dtype, i] else _COPIES
                ways[dtype, i] += [native_product(kernels, shape, dtype) for _ in range(copies)]
    pieces = [way for found in ways.values() for way in found]
    least = iter(least_seconds(pieces, device_clock(device), budget_s=budget_s))
    best = {key: min(next(least) for _ in found) for key, found in ways.items()}
    return {dtype: [shape.flops / best[dtype, i] for i, shape in enumerate(shapes)] for dtype in names}


def _torch_ways(shape: Shape, device: torch.device, dtype: str) -> list[Work]:
    def drawn(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, device=device).uniform_(-1.0, 1.0).to(_TORCH_DTYPES[dtype])

    x, w = drawn(shape.rows, shape.inputs), drawn(shape.outputs, shape.inputs)
    y = torch.empty(shape.rows, shape.outputs, device=device, dtype=x.dtype)
    ways: list[Work] = [lambda: torch.mm(x, w.t(), out=y)]
    if products.uses_onednn(x):
        ways.append(lambda: products.linear(x, w, None))
    return ways


def native_product(kernels: Kernels, shape: Shape, dtype: PackedDtype) -> Work:
    """The product by the native kernels, of weights and inputs that are drawn once."""
    draw = np.random.default_rng(0)
    matrix = pack(draw.uniform(-1.0, 1.0, size=(shape.outputs, shape.inputs)).astype(np.float32), dtype)
    x = draw.uniform(-1.0, 1.0, size=(shape.rows, shape.inputs)).astype(np.float32)
    return lambda: kernels.linear(matrix, x)
