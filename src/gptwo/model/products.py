"""The three matrix products of a linear layer Y = X Wᵀ + b, each through the fastest kernel that torch has for it.

For float32 on an x86 CPU torch's own ``mm`` calls MKL, which reaches 190-205 of an AMD core pair's GFLOP/s where
oneDNN, which torch also carries, reaches 215-220 (and 200 against 110-120 for a head of 50,257 columns). For dW it is
the other way round. ``docs/decisions`` has the figures. Everywhere else the products are torch's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def uses_onednn(x: Tensor) -> bool:
    """Whether the products of X go through oneDNN: real float32 tensors on a CPU for which torch was built with it."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and type(x) in (Tensor, torch.nn.Parameter)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call] # torch leaves it unannotated
    )


def linear(
    x_NI: Float[Tensor, "N I"], W_OI: Float[Tensor, "O I"], b_O: Float[Tensor, " O"] | None
) -> Float[Tensor, "N O"]:
    """Y = X Wᵀ + b."""
    if uses_onednn(x_NI):
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, W_OI, b_O, "none", [], "")
        return y_NO
    return torch.nn.functional.linear(x_NI, W_OI, b_O)


def input_gradient(dy_NO: Float[Tensor, "N O"], W_OI: Float[Tensor, "O I"]) -> Float[Tensor, "N I"]:
    """dX = dY W."""
    return linear(dy_NO, W_OI.t(), None) if uses_onednn(dy_NO) else dy_NO @ W_OI


def add_weight_gradient(
    dW_OI: Float[Tensor, "O I"],
    dy_NO: Float[Tensor, "N O"],
    x_NI: Float[Tensor, "N I"],
    *,
    accumulate: bool,
) -> None:
    """dW ← dYᵀ X, or dW ← dW + dYᵀ X with ``accumulate``; what dW held before is then not read."""
    if accumulate:
        dW_OI.addmm_(dy_NO.t(), x_NI)
    else:
        torch.mm(dy_NO.t(), x_NI, out=dW_OI)
