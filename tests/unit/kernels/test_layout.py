"""Each layout against its definition, read element by element."""

from __future__ import annotations

import numpy as np
import pytest

from gptwo.kernels import layout
from gptwo.kernels.layout import PACKED_DTYPES, PackedDtype, PackedMatrix, pack, packed_bytes, unpack

each_dtype = pytest.mark.parametrize("dtype", PACKED_DTYPES)
# Nothing, one more and one less than a pair, a group and a panel; several of each; both ways round.
SHAPES = [(1, 1), (31, 33), (32, 32), (33, 31), (64, 65), (65, 64), (1, 100), (100, 1), (97, 66), (50, 2)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def some_matrix(N: int, K: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, K)).astype(np.float32)


def bfloat16(bits: int) -> float:
    return float(np.array(bits << 16, dtype=np.uint32).view(np.float32))


def scale(block: np.ndarray, output: int) -> float:
    low, high = block[-64:][2 * output : 2 * output + 2]
    return bfloat16(int(low) | int(high) << 8)


def element(packed: PackedMatrix, n: int, k: int) -> float:
    """W[n, k] as the definition says."""
    (panel, o), (g, within) = divmod(n, 32), divmod(k, 32)
    match packed.dtype:
        case "fp32":
            return float(packed.data[panel, k, o])
        case "bf16":
            return bfloat16(int(packed.data[panel, k // 2, o, k % 2]))
        case "int8":
            i, j = divmod(within, 4)
            block = packed.data[panel, g]
            return (int(block[i * 128 + o * 4 + j]) - 128) * scale(block, o)
        case "int4":
            i, rest = divmod(within, 8)
            high, j = divmod(rest, 4)
            block = packed.data[panel, g]
            byte = int(block[i * 128 + o * 4 + j])
            return ((byte >> 4 if high else byte & 15) - 8) * scale(block, o)


def padded(packed: PackedMatrix) -> PackedMatrix:
    """The same data with all that fills up its last panel and group."""
    P = packed.data.shape[0]
    inputs = {"fp32": 1, "bf16": 2, "int8": 32, "int4": 32}[packed.dtype] * packed.data.shape[1]
    return PackedMatrix(packed.dtype, P * 32, inputs, packed.data)


@each_dtype
@each_shape
def test_every_element_lies_where_the_definition_says(dtype: PackedDtype, shape: tuple[int, int]) -> None:
    N, K = shape
    packed = pack(some_matrix(N, K), dtype)
    expected = [[element(packed, n, k) for k in range(K)] for n in range(N)]
    assert unpack(packed).tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "near"), [("fp32", 0), ("bf16", 2**-8), ("int8", 1.01 / 254), ("int4", 0.3)]
)
@each_shape
def test_every_element_is_near_the_matrixs(dtype: PackedDtype, near: float, shape: tuple[int, int]) -> None:
    """Half a step of the largest weight's scale; in int4 more, as the search may cut the largest."""
    matrix = some_matrix(*shape)
    error = np.abs(unpack(pack(matrix, dtype)) - matrix)
    assert error.max() <= near * np.abs(matrix).max()


@each_dtype
@each_shape
def test_what_fills_up_is_zero(dtype: PackedDtype, shape: tuple[int, int]) -> None:
    N, K = shape
    packed = pack(some_matrix(N, K), dtype)
    whole = unpack(padded(packed))
    whole[:N, :K] = 0
    assert not whole.any()
    if dtype in ("int8", "int4"):
        of_weights = 1024 if dtype == "int8" else 512
        zero = 0x80 if dtype == "int8" else 0x88
        last = packed.data[-1, -1]
        for output in range((N - 1) % 32 + 1, 32):
            assert last[of_weights:].view(np.uint16)[output] == 0
            assert (last[:of_weights].reshape(-1, 32, 4)[:, output] == zero).all()


@each_dtype
def test_a_view_packs_as_its_copy(dtype: PackedDtype) -> None:
    big = some_matrix(150, 200)
    for view in (big.T, big[3:100:2, 5:], big[::-1, ::-1], big[:70].T):
        assert np.array_equal(pack(view, dtype).data, pack(view.copy(), dtype).data)


@pytest.mark.parametrize("other", [np.float16, np.float64])
@each_dtype
def test_other_floats_pack_as_float32(dtype: PackedDtype, other: type) -> None:
    matrix = some_matrix(40, 40).astype(other)
    assert np.array_equal(pack(matrix, dtype).data, pack(matrix.astype(np.float32), dtype).data)


@each_dtype
def test_packing_in_several_goes_changes_nothing(dtype: PackedDtype, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = some_matrix(161, 70)
    whole = pack(matrix, dtype)
    monkeypatch.setattr(layout, "_AT_ONCE", 32 * 70 * 2)
    assert np.array_equal(pack(matrix, dtype).data, whole.data)
    assert np.array_equal(unpack(whole), unpack(pack(matrix, dtype)))


@each_dtype
def test_the_data_is_whole_cache_lines_and_may_be_given(dtype: PackedDtype) -> None:
    matrix = some_matrix(33, 35)
    packed = pack(matrix, dtype)
    count = packed_bytes(dtype, 33, 35)
    assert (packed.data.nbytes, packed.data.ctypes.data % 64, count % 64) == (count, 0, 0)
    assert packed.data.flags.c_contiguous
    memory = np.full(count, 0xAA, dtype=np.uint8)
    into = pack(matrix, dtype, into=memory)
    assert np.shares_memory(into.data, memory)
    assert np.array_equal(into.data, packed.data)


def test_the_shapes_are_these() -> None:
    shapes = {dtype: layout.packed_shape(dtype, 65, 67) for dtype in PACKED_DTYPES}
    assert shapes == {"fp32": (3, 67, 32), "bf16": (3, 34, 32, 2), "int8": (3, 3, 1088), "int4": (3, 3, 576)}
