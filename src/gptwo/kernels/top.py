"""What is kept of rows of logits where not all of them are wanted. The kernels fill it; who samples reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gptwo.kernels.interface import TopStruct

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int32


class Top(NamedTuple):
    """Of n rows of logits: the k largest with their ids, by logit descending and then by id, and log Σ exp z, natural.

    What is kept of a row depends on its logits alone. A NaN or +∞ makes log Σ exp z of its row NaN.
    """

    ids_nk: Int32[np.ndarray, "n k"]
    logits_nk: Float32[np.ndarray, "n k"]
    log_sum_exp_n: Float64[np.ndarray, " n"]


def empty_top(n: int, V: int, k: int) -> Top:
    """Room for n rows of min(k, V) logits, k >= 1."""
    if k < 1:
        raise ValueError(f"the {k} largest of {V} logits; expected at least 1")
    k = min(k, V)
    return Top(np.empty((n, k), np.int32), np.empty((n, k), np.float32), np.empty(n))


def top_struct(top: Top) -> TopStruct:
    """Pointers into its arrays, which must outlive it."""
    return TopStruct(top.ids_nk.shape[1], *(array.ctypes.data for array in top))
