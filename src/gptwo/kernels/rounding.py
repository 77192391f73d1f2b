"""Float32 weights to bfloat16, and to 8 or 4 bits with a scale per group. NumPy only.

A group is 32 weights that one output has for 32 inputs in a row. The last two axes of ``weights`` are (inputs of a
group, outputs), so that NumPy's inner loops run over outputs, and scales have all axes but the inputs'. A scale s is
kept as bfloat16, and the weights are rounded by it as it is kept, so that its own rounding adds no error.

    int8   s = max|w| / 127, rounded up to bfloat16; q = round(w / s), -127 to 127
           |w - q s| ≤ s/2 ≤ (1 + 2⁻⁷) max|w| / 254
    int4   s = -e f / 8, the nearest bfloat16; q = round(w / s) cut to -8 … 7
           e is the weight of largest |w|, with its sign; of some f, and the scale that fits best to the weights as
           the best f rounds them, Σ wq / Σ q², the one of least error Σ (w - q s)² is taken
           Σ (w - q s)² ≤ 32 ((1 + 2⁻⁵) e / 8)², which f = 1 already keeps: there no |w - q s| is more than |s|

Source: llama.cpp's Q8_0 and Q4_0 have such groups, and give -8 to the weight of largest |w|; the search is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Int8, UInt16

GROUP = 32

# Below 1 the few largest weights are cut so that the many others lie closer; 8/7 is the range without its -8. On
# normally distributed weights these and the fit leave 90 % of the error of f = 1 alone, and 25 values of f 89 %.
_FACTORS = (1.0, 0.8, 0.87, 0.94, 8 / 7)


def to_bfloat16(values: Float32[np.ndarray, "*shape"]) -> UInt16[np.ndarray, "*shape"]:
    """The bits of the nearest bfloat16, of two the even one; what is no number stays none."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded.astype(np.uint16)


def from_bfloat16(bits: UInt16[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """The values, which float32 has exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def round_to_int8(
    weights: Float32[np.ndarray, "*groups 32 N"],
) -> tuple[Int8[np.ndarray, "*groups 32 N"], UInt16[np.ndarray, "*groups N"]]:
    """q and the bits of s of every group; a group of zeros has s = 0. ``ValueError`` for what is no finite number."""
    largest = np.abs(_extreme(weights))
    # Rounding up: adding all that is cut off carries whenever any of it is not zero.
    bits = (largest / np.float32(127)).view(np.uint32) + np.uint32(0xFFFF)
    scale_bits = (bits >> np.uint32(16)).astype(np.uint16)
    q = weights / _divisor(from_bfloat16(scale_bits))
    np.rint(q, out=q)
    return q.astype(np.int8), scale_bits


def round_to_int4(
    weights: Float32[np.ndarray, "*groups 32 N"],
) -> tuple[Int8[np.ndarray, "*groups 32 N"], UInt16[np.ndarray, "*groups N"]]:
    """As ``round_to_int8``; s may be negative."""
    extreme = _extreme(weights)
    best = _Int4(weights, extreme, extreme * np.float32(-1 / 8))
    for factor in _FACTORS[1:]:
        best.improve(_Int4(weights, extreme, extreme * np.float32(-factor / 8)))
    of_squares = np.einsum("...kn,...kn->...n", best.q, best.q)
    fitted = np.einsum("...kn,...kn->...n", weights, best.q) / np.where(of_squares > 0, of_squares, 1)
    best.improve(_Int4(weights, extreme, fitted))
    return best.q.astype(np.int8), best.scale_bits


class _Int4:
    """All groups rounded with these scales, and the error of each in squares of its extreme weight."""

    def __init__(self, weights: np.ndarray, extreme: np.ndarray, scale: np.ndarray) -> None:
        self.scale_bits = to_bfloat16(scale + np.float32(0))  # no scale is -0
        kept = from_bfloat16(self.scale_bits)
        exact = weights / _divisor(kept)
        self.q = np.rint(exact)
        np.clip(self.q, -8, 7, out=self.q)
        exact -= self.q
        relative = kept / np.where(extreme == 0, np.float32(1), extreme)
        self.error = np.einsum("...kn,...kn->...n", exact, exact) * relative * relative

    def improve(self, other: _Int4) -> None:
        """Take those groups of ``other`` that have less error."""
        better = other.error < self.error
        np.copyto(self.error, other.error, where=better)
        np.copyto(self.scale_bits, other.scale_bits, where=better)
        np.copyto(self.q, other.q, where=better[..., None, :])


def _extreme(weights: np.ndarray) -> np.ndarray:
    """Of every group the weight of largest magnitude."""
    highest, lowest = weights.max(axis=-2), weights.min(axis=-2)
    extreme: np.ndarray = np.where(highest >= -lowest, highest, lowest)
    if not np.isfinite(extreme).all():
        raise ValueError("weights that are no finite numbers cannot be rounded to integers")
    return extreme


def _divisor(scale: np.ndarray) -> np.ndarray:
    """A scale of 0 belongs to weights that round to 0 whatever they are divided by."""
    return np.where(scale == 0, np.float32(1), scale)[..., None, :]
