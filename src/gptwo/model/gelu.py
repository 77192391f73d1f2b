"""GELU and its derivative in a few passes over pieces that stay in the processor's cache.

GELU(z) = ½ z (1 + tanh(v)) = z σ(2v) with v = √(2/π) (z + 0.044715 z³), and on a CPU the logistic σ takes a sixth of
the time of tanh. With a = 2√(2/π), b = 0.044715 a and s = σ(z (a + b z²)):

    GELU(z) = z s        GELU'(z) = s + z s (1 - s) (a + 3b z²)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

_A = 2 * math.sqrt(2 / math.pi)
_B = 0.044715 * _A
# Values of a piece. Torch shares an operation among threads from 32,768 values on.
_PIECE = 1 << 19


def gelu(z_NF: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
    """GELU in its tanh form, of every value."""
    g_NF = torch.empty_like(z_NF)
    a = z_NF.new_tensor(_A)
    for z, g in zip(_pieces(z_NF), _pieces(g_NF), strict=True):
        torch.addcmul(a, z, z, value=_B, out=g).mul_(z).sigmoid_().mul_(z)
    return g_NF


def gelu_again(z_NF: Float[Tensor, "N F"], dg_NF: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
    """GELU(z) once more, for the backward pass, where dz = GELU'(z) dg takes the place of ``dg_NF``."""
    g_NF = torch.empty_like(z_NF)
    a = z_NF.new_tensor(_A)
    kept_s, kept_slope = (torch.empty_like(_pieces(z_NF)[0]) for _ in range(2))
    for z, g, dg in zip(_pieces(z_NF), _pieces(g_NF), _pieces(dg_NF), strict=True):
        s, slope = kept_s[: len(z)], kept_slope[: len(z)]
        torch.addcmul(a, z, z, value=_B, out=s).mul_(z).sigmoid_()
        torch.mul(z, s, out=g)
        torch.addcmul(a, z, z, value=3 * _B, out=slope).mul_(g)
        torch.addcmul(slope, slope, s, value=-1, out=slope).add_(s)
        dg.mul_(slope)
    return g_NF


def _pieces(values_NF: Float[Tensor, "N F"]) -> tuple[Tensor, ...]:
    return torch.split(values_NF, max(1, _PIECE // values_NF.shape[1]))
