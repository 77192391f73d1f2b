"""How the native kernels have their matrices: in panels of 32 outputs, for every instruction set alike. NumPy only.

W is N×K, outputs by inputs. P = ⌈N/32⌉ panels, G = ⌈K/32⌉ groups of inputs; what W lacks to fill them has weight 0.

    fp32   [P][K][32] float32
    bf16   [P][⌈K/2⌉][32][2] uint16: of each output the pair of inputs 2i, 2i + 1
    int8   [P][G][1088] bytes. 1024 of weights as [8][32][4]: at [i][output][j] is q + 128 of input 32 g + 4 i + j;
           then the scales of the 32 outputs as bfloat16. weight = q s
    int4   [P][G][576] bytes. 512 of weights as [4][32][4]: at [i][output][j] is q + 8 of input 32 g + 8 i + j in the
           low half, and of input 32 g + 8 i + 4 + j in the high half; then the scales. weight = q s

How q and s are chosen: ``rounding``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gptwo.kernels.rounding import GROUP, from_bfloat16, round_to_int4, round_to_int8, to_bfloat16

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Float32

PackedDtype = Literal["fp32", "bf16", "int8", "int4"]
PACKED_DTYPES: tuple[PackedDtype, ...] = get_args(PackedDtype)
PANEL = 32
ALIGNMENT = 64

_INT8_WEIGHTS, _INT4_WEIGHTS, _SCALES = PANEL * GROUP, PANEL * GROUP // 2, 2 * PANEL
_ELEMENTS: dict[PackedDtype, type] = {
    "fp32": np.float32,
    "bf16": np.uint16,
    "int8": np.uint8,
    "int4": np.uint8,
}
# Weights that are worked on at a time, so that what is made of them on the way stays in a core's own cache.
_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """W, ``outputs`` × ``inputs``, as ``dtype``: ``data`` is contiguous, and begins at a multiple of 64 bytes."""

    dtype: PackedDtype
    outputs: int
    inputs: int
    data: NDArray[np.generic]


def packed_shape(dtype: PackedDtype, outputs: int, inputs: int) -> tuple[int, ...]:
    """The shape of ``PackedMatrix.data``."""
    panels, groups = -(-outputs // PANEL), -(-inputs // GROUP)
    shapes: dict[PackedDtype, tuple[int, ...]] = {
        "fp32": (panels, inputs, PANEL),
        "bf16": (panels, -(-inputs // 2), PANEL, 2),
        "int8": (panels, groups, _INT8_WEIGHTS + _SCALES),
        "int4": (panels, groups, _INT4_WEIGHTS + _SCALES),
    }
    return shapes[dtype]


def packed_bytes(dtype: PackedDtype, outputs: int, inputs: int) -> int:
    """Bytes of ``PackedMatrix.data``: always a multiple of 64."""
    return prod(packed_shape(dtype, outputs, inputs)) * np.dtype(_ELEMENTS[dtype]).itemsize


def as_packed(buffer: NDArray[np.uint8], dtype: PackedDtype, outputs: int, inputs: int) -> PackedMatrix:
    """The ``packed_bytes`` of ``buffer`` as a matrix: a view."""
    data: NDArray[np.generic] = buffer.view(_ELEMENTS[dtype]).reshape(packed_shape(dtype, outputs, inputs))
    return PackedMatrix(dtype, outputs, inputs, data)


def aligned_bytes(count: int) -> NDArray[np.uint8]:
    """``count`` bytes that begin at a multiple of 64, not initialised."""
    memory = np.empty(count + ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + count]


def pack(
    matrix: Float[np.ndarray, "N K"], dtype: PackedDtype, *, into: NDArray[np.uint8] | None = None
) -> PackedMatrix:
    """``matrix`` in panels, ``into`` bytes of its ``packed_bytes`` or in new ones.

    Any float type and any strides: a transposed view is as fast as another. ``ValueError`` for int8 or int4 of what
    is no finite number.
    """
    N, K = matrix.shape
    packed = as_packed(aligned_bytes(packed_bytes(dtype, N, K)) if into is None else into, dtype, N, K)
    write = {"fp32": _write_fp32, "bf16": _write_bf16, "int8": _write_int8, "int4": _write_int4}[dtype]
    for panels, rows in _chunks(N, K):
        write(matrix[rows], packed.data[panels])
    return packed


def unpack(packed: PackedMatrix) -> Float32[np.ndarray, "N K"]:
    """The N×K values that the kernels compute with."""
    N, K = packed.outputs, packed.inputs
    read = {"fp32": _read_fp32, "bf16": _read_bf16, "int8": _read_int8, "int4": _read_int4}[packed.dtype]
    matrix_NK = np.empty((N, K), dtype=np.float32)
    for panels, rows in _chunks(N, K):
        panels_pKo = read(packed.data[panels])[:, :K]
        count = len(matrix_NK[rows])
        matrix_NK[rows] = panels_pKo.transpose(0, 2, 1).reshape(-1, K)[:count]
    return matrix_NK


def _chunks(N: int, K: int) -> Iterator[tuple[slice, slice]]:
    """Panels that are worked on together, and their rows of the matrix."""
    at_once = max(1, _AT_ONCE // (PANEL * max(1, K)))
    for start in range(0, -(-N // PANEL), at_once):
        yield slice(start, start + at_once), slice(start * PANEL, (start + at_once) * PANEL)


def _write_fp32(rows: np.ndarray, data_pKo: np.ndarray) -> None:
    whole = len(rows) // PANEL
    K = rows.shape[1]
    data_pKo[:whole] = rows[: whole * PANEL].reshape(whole, PANEL, K).transpose(0, 2, 1)
    if rest := len(rows) - whole * PANEL:
        data_pKo[whole, :, :rest] = rows[whole * PANEL :].T
        data_pKo[whole, :, rest:] = 0


def _panels(rows: np.ndarray, count: int, inputs: int) -> Float32[np.ndarray, "p K 32"]:
    """``count`` panels as for fp32, with zeros up to ``inputs``."""
    panels_pKo = np.empty((count, inputs, PANEL), dtype=np.float32)
    _write_fp32(rows, panels_pKo[:, : rows.shape[1]])
    panels_pKo[:, rows.shape[1] :] = 0
    return panels_pKo


def _write_bf16(rows: np.ndarray, data: np.ndarray) -> None:
    count, pairs = data.shape[:2]
    bits_pKo = to_bfloat16(_panels(rows, count, 2 * pairs))
    data[:] = bits_pKo.reshape(count, pairs, 2, PANEL).transpose(0, 1, 3, 2)


def _write_int8(rows: np.ndarray, data: np.ndarray) -> None:
    count, groups = data.shape[:2]
    panels_pKo = _panels(rows, count, groups * GROUP)
    q_pgko, scale_bits_pgo = round_to_int8(panels_pKo.reshape(count, groups, GROUP, PANEL))
    weights = data[..., :_INT8_WEIGHTS].reshape(count, groups, 8, PANEL, 4)
    # Flipping the highest bit of the two's complement adds 128.
    unsigned = q_pgko.view(np.uint8) ^ np.uint8(128)
    weights[:] = unsigned.reshape(count, groups, 8, 4, PANEL).transpose(0, 1, 2, 4, 3)
    data[..., _INT8_WEIGHTS:] = scale_bits_pgo.view(np.uint8)


def _write_int4(rows: np.ndarray, data: np.ndarray) -> None:
    count, groups = data.shape[:2]
    panels_pKo = _panels(rows, count, groups * GROUP)
    q_pgko, scale_bits_pgo = round_to_int4(panels_pKo.reshape(count, groups, GROUP, PANEL))
    unsigned = (q_pgko + np.int8(8)).view(np.uint8).reshape(count, groups, 4, 2, 4, PANEL)
    weights = data[..., :_INT4_WEIGHTS].reshape(count, groups, 4, PANEL, 4)
    halves = unsigned[:, :, :, 0] | (unsigned[:, :, :, 1] << np.uint8(4))
    weights[:] = halves.transpose(0, 1, 2, 4, 3)
    data[..., _INT4_WEIGHTS:] = scale_bits_pgo.view(np.uint8)


def _read_fp32(data_pKo: np.ndarray) -> np.ndarray:
    return data_pKo


def _read_bf16(data: np.ndarray) -> np.ndarray:
    return from_bfloat16(data).transpose(0, 1, 3, 2).reshape(len(data), -1, PANEL)


def _read_int8(data: np.ndarray) -> np.ndarray:
    count, groups = data.shape[:2]
    weights = data[..., :_INT8_WEIGHTS].reshape(count, groups, 8, PANEL, 4)
    q_pgko = weights.transpose(0, 1, 2, 4, 3).reshape(count, groups, GROUP, PANEL).astype(np.float32) - 128
    return _scaled(q_pgko, data[..., _INT8_WEIGHTS:])


def _read_int4(data: np.ndarray) -> np.ndarray:
    count, groups = data.shape[:2]
    weights = data[..., :_INT4_WEIGHTS].reshape(count, groups, 4, PANEL, 4)
    halves = np.stack((weights & np.uint8(15), weights >> np.uint8(4)), axis=3)  # [p][g][i][half][output][j]
    q_pgko = halves.transpose(0, 1, 2, 3, 5, 4).reshape(count, groups, GROUP, PANEL).astype(np.float32) - 8
    return _scaled(q_pgko, data[..., _INT4_WEIGHTS:])


def _scaled(q_pgko: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[p][K][output], from q and the bytes of the scales."""
    scale_pgo = from_bfloat16(np.ascontiguousarray(scales).view(np.uint16))
    values: np.ndarray = q_pgko * scale_pgo[:, :, None, :]
    return values.reshape(len(q_pgko), -1, PANEL)
