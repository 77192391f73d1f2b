"""The kernels at shapes that nobody chose, on every instruction set of this machine."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_library import SUMS, normal, seen_by

from gptwo.kernels.cache import BLOCK, CacheMemory
from gptwo.kernels.layout import PACKED_DTYPES, PackedDtype, pack, unpack
from gptwo.kernels.library import Kernels
from gptwo.model import equations
from tolerance import Tolerance

# More than lie behind each other in a run of blocks.
BLOCKS = 20
LONGEST = 3 * BLOCK + 3


@pytest.mark.parametrize("dtype", PACKED_DTYPES)
@given(M=st.integers(1, 30), N=st.integers(1, 1100), K=st.integers(1, 130))
@settings(max_examples=15)
def test_products_and_their_largest(kernels: Kernels, dtype: PackedDtype, M: int, N: int, K: int) -> None:
    matrix, x_MK = pack(normal(N, K), dtype), normal(M, K, seed=1)
    y_MN = kernels.linear(matrix, x_MK)
    expected = seen_by(kernels, dtype, x_MK) @ unpack(matrix).astype(np.float64).T
    SUMS.assert_close(y_MN / math.sqrt(K), expected / math.sqrt(K))
    assert np.array_equal(kernels.linear(matrix, x_MK[M // 2 :]), y_MN[M // 2 :])
    head, top = kernels.head(matrix, x_MK, 3), kernels.top(y_MN, 3)
    assert all(np.array_equal(a, b) for a, b in zip(head, top, strict=True))
    assert np.array_equal(top.ids_nk, np.argsort(-y_MN, axis=1, kind="stable")[:, :3])


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@given(shape=st.tuples(st.integers(1, LONGEST), st.integers(1, 3), st.integers(1, 80)), data=st.data())
@settings(max_examples=15)
def test_attention_over_any_blocks_in_any_chunks(
    kernels: Kernels, dtype: str, shape: tuple[int, int, int], data: st.DataObject
) -> None:
    T, H, K = shape
    q, k, v = normal(3, T, H, K)

    def attended(*cuts: int) -> np.ndarray:
        cache = CacheMemory(layers=1, heads=H, head_width=K, blocks=BLOCKS, dtype=dtype)
        cache._memory[:] = 255  # NaN
        table = np.array(data.draw(st.permutations(range(BLOCKS))), dtype=np.int32)
        parts = [
            kernels.attention(cache, table, begin, q=q[begin:end], k=k[begin:end], v=v[begin:end])
            for begin, end in zip((0, *cuts), (*cuts, T), strict=True)
            if begin < end
        ]
        return np.concatenate(parts)

    whole = attended()
    assert np.array_equal(attended(*sorted(data.draw(st.lists(st.integers(0, T), max_size=3)))), whole)
    if dtype == "fp32":
        near = Tolerance(atol=1e-5, rtol=1e-5, why=f"fp32 sums over {LONGEST} positions and 80 values")
        for head in range(H):
            Q_h, K_h, V_h = (torch.from_numpy(a[:, head].astype(np.float64)) for a in (q, k, v))
            expected = equations.attention_weights(Q_h, K_h, equations.causal_mask(Q_h)) @ V_h
            near.assert_close(whole[:, head], expected, f"head {head}")
