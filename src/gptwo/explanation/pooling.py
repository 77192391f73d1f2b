"""Pictures of large tensors: the last two axes made smaller, field by field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def pooled(
    tensor: Float[Tensor, "*more R S"], size: int, *, how: Literal["max", "mean"]
) -> Float[Tensor, "*more r s"]:
    """At most ``size`` rows and columns: of each field, R/r × S/s values, the largest or the mean.

    Field i of r begins at row ⌊i R/r⌋ and ends before row ⌈(i+1) R/r⌉, so no row is left out.
    """
    R, S = tensor.shape[-2:]
    r, s = min(R, size), min(S, size)
    if (r, s) == (R, S):
        return tensor
    pool = F.adaptive_max_pool2d if how == "max" else F.adaptive_avg_pool2d
    flat = tensor.reshape(1, -1, R, S)
    small: Tensor = pool(flat, (r, s))
    return small.reshape(*tensor.shape[:-2], r, s)
