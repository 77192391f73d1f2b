"""The three matrix products of a linear layer Y = X Wᵀ + b, each through the faster kernel that torch has for it.

For float32 on an x86 CPU torch's own ``mm`` calls MKL. For Y and dX oneDNN, which torch also carries, is faster; for dW
MKL is (``docs/decisions/0010-step-cost.md``). Everywhere else the products are torch's own.
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
    x_NI: Float[Tensor, "*more I"], W_OI: Float[Tensor, "O I"], b_O: Float[Tensor, " O"] | None = None
) -> Float[Tensor, "*more O"]:
    """Y = X Wᵀ + b."""
    if uses_onednn(x_NI):
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, W_OI, b_O, "none", [], "")
        return y_NO
    return torch.nn.functional.linear(x_NI, W_OI, b_O)


def input_gradient(dy_NO: Float[Tensor, "N O"], W_OI: Float[Tensor, "O I"]) -> Float[Tensor, "N I"]:
    """dX = dY W."""
    return linear(dy_NO, W_OI.t(), None) if uses_onednn(dy_NO) else dy_NO @ W_OI
