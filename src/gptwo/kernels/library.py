"""The native library for Python: one function for each of its own, over NumPy arrays.

``open_kernels`` gives ``Kernels``: threads, an instruction set, and what can be computed with them. Arrays go in as
C-contiguous NumPy arrays of the dtype that is stated, and are checked. Calls release Python's lock; calls on one
``Kernels`` wait for each other.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo.base.errors import ConfigError
from gptwo.kernels.cache import CacheMemory
from gptwo.kernels.context import Context
from gptwo.kernels.interface import (
    DTYPES,
    ChoiceStruct,
    MatrixStruct,
    ModelStruct,
    SegmentStruct,
    TopStruct,
    native_library,
    timed_forward,
)
from gptwo.kernels.layout import PackedMatrix
from gptwo.kernels.top import Top, empty_top, top_struct

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int, Int8, Int32, Int64

INSTRUCTION_SET_VARIABLE = "GPTWO_INSTRUCTION_SET"


def instruction_sets() -> list[str]:
    """What this machine and this build have, the fastest first: of avx512, avx2, neon, portable."""
    names: list[str] = []
    while (name := native_library().gptwo_instruction_set(len(names))) is not None:
        names.append(name.decode())
    return names


def open_kernels(threads: int, instruction_set: str | None = None) -> Kernels:
    """Kernels on so many threads (the caller's is one of them), with the fastest instruction set of this machine.

    ``instruction_set``, or the environment's GPTWO_INSTRUCTION_SET, asks for another. Raises ``NativeLibraryError``
    where the library was not built, ``ConfigError`` for threads < 1 or an instruction set that is not here.
    """
    if type(threads) is not int or not 1 <= threads <= 1024:
        raise ConfigError(f"threads={threads!r} is not possible; expected a whole number from 1 to 1024")
    possible = instruction_sets()
    chosen = instruction_set or os.environ.get(INSTRUCTION_SET_VARIABLE) or possible[0]
    if chosen not in possible:
        raise ConfigError(
            f"the instruction set {chosen!r} is not here; expected one of {', '.join(possible)}; "
            f"unset {INSTRUCTION_SET_VARIABLE} for the fastest"
        )
    return Kernels(threads, chosen)


class Kernels(Context):
    """The kernels on a pool of threads; made by ``open_kernels``. After a fork the child opens its own."""

    def forward(
        self,
        model: ModelStruct,
        cache: CacheMemory,
        segments: list[tuple[int, Int32[np.ndarray, " blocks"]]],
        texts: list[Int[np.ndarray, " T"]],
        outputs: Int32[np.ndarray, " n"],
    ) -> Float32[np.ndarray, "n V"]:
        """Adds text i to the sequence of ``segments[i]`` (its length so far, its blocks); logits of rows ``outputs``.

        Rows are all new tokens in order; ``outputs`` ascend. Tokens, lengths and blocks are the caller's to check.
        """
        logits = np.empty((len(outputs), model.vocabulary), dtype=np.float32)
        self._forward(model, cache, segments, texts, outputs, logits=logits.ctypes.data)
        return logits

    def forward_top(
        self,
        model: ModelStruct,
        cache: CacheMemory,
        segments: list[tuple[int, Int32[np.ndarray, " blocks"]]],
        texts: list[Int[np.ndarray, " T"]],
        outputs: Int32[np.ndarray, " n"],
        *,
        k: int,
        times: Int64[np.ndarray, " steps"] | None = None,
    ) -> Top:
        """``top`` of the logits of ``forward``, bit by bit, without writing V of them for any row.

        To ``times`` the nanoseconds of the steps are added: embedding, 7 of each block, last norm, head. Of a block:
        norm, QKV, attention (keys are stored in it), output, norm, up with GELU, down; sums with the residual in both.
        """
        top = empty_top(len(outputs), model.vocabulary, k)
        self._forward(model, cache, segments, texts, outputs, top=top_struct(top), times=times)
        return top

    def _forward(
        self,
        model: ModelStruct,
        cache: CacheMemory,
        segments: list[tuple[int, Int32[np.ndarray, " blocks"]]],
        texts: list[Int[np.ndarray, " T"]],
        outputs: Int32[np.ndarray, " n"],
        *,
        logits: int | None = None,
        top: TopStruct | None = None,
        times: Int64[np.ndarray, " steps"] | None = None,
    ) -> None:
        structs = (SegmentStruct * len(texts))(
            *(
                SegmentStruct(len(text), start, table.ctypes.data)
                for text, (start, table) in zip(texts, segments, strict=True)
            )
        )
        tokens = np.ascontiguousarray(np.concatenate(texts), dtype=np.int32)
        forward = self._library.gptwo_forward if times is None else timed_forward(self._library)
        failed = forward(
            self._context(),
            ctypes.byref(model),
            ctypes.byref(cache.struct),
            structs,
            len(texts),
            tokens.ctypes.data,
            outputs.ctypes.data,
            len(outputs),
            logits,
            ctypes.byref(top) if top is not None else None,
            *([] if times is None else [times.ctypes.data]),
        )
        if failed:
            raise MemoryError("the forward pass is out of memory")

    def top(self, logits: Float32[np.ndarray, "n V"], k: int) -> Top:
        """The k largest logits of each row (all V of a shorter one) and log Σ exp z; 1 <= k."""
        z = _checked(logits, np.float32, 2)
        n, V = z.shape
        top = empty_top(n, V, k)
        if self._library.gptwo_top(self._context(), z.ctypes.data, n, V, ctypes.byref(top_struct(top))):
            raise MemoryError("finding the largest logits is out of memory")
        return top

    def choose(
        self,
        logits: Float32[np.ndarray, " V"],
        replaced: tuple[Int32[np.ndarray, " n"], Float64[np.ndarray, " n"]],
        choice: ChoiceStruct,
    ) -> int:
        """The id that ``choice`` takes of these logits, those of ``replaced`` ids being these values instead.

        All are numbers or -∞, one at least finite; ids are below V.
        """
        z, (ids, values) = _checked(logits, np.float32, 1), replaced
        ids, values = _checked(ids, np.int32, 1), _checked(values, np.float64, 1)
        token = self._library.gptwo_choose(
            self._context(),
            z.ctypes.data,
            len(z),
            ids.ctypes.data,
            values.ctypes.data,
            len(ids),
            ctypes.byref(choice),
        )
        if token < 0:
            raise MemoryError("choosing a token is out of memory")
        return int(token)

    def head(self, matrix: PackedMatrix, x: Float32[np.ndarray, "M K"], k: int) -> Top:
        """``top`` of ``linear`` without a bias, whose products are nowhere written."""
        struct = matrix_struct(matrix, None)
        x = _checked(x, np.float32, 2)
        top = empty_top(len(x), matrix.outputs, k)
        self._library.gptwo_head(
            self._context(), ctypes.byref(struct), x.ctypes.data, len(x), ctypes.byref(top_struct(top))
        )
        return top

    def linear(
        self,
        matrix: PackedMatrix,
        x: Float32[np.ndarray, "M K"],
        *,
        bias: Float32[np.ndarray, " N"] | None = None,
        gelu: bool = False,
        residual: Float32[np.ndarray, "M N"] | None = None,
    ) -> Float32[np.ndarray, "M N"]:
        """x Wᵀ + b, then GELU, then + residual, where they are asked for. Integer weights see ``quantize`` of x."""
        struct = matrix_struct(matrix, bias)
        x = _checked(x, np.float32, 2)
        y = np.empty((len(x), matrix.outputs), np.float32)
        added = _checked(residual, np.float32, 2).ctypes.data if residual is not None else None
        self._library.gptwo_linear(
            self._context(), ctypes.byref(struct), x.ctypes.data, len(x), gelu, added, y.ctypes.data
        )
        return y

    def layer_norm(
        self,
        x: Float32[np.ndarray, "T D"],
        gamma: Float32[np.ndarray, " D"],
        beta: Float32[np.ndarray, " D"],
        epsilon: float,
    ) -> Float32[np.ndarray, "T D"]:
        """γ (x - mean x) / √(var x + ε) + β."""
        x = _checked(x, np.float32, 2)
        y = np.empty_like(x)
        weights = [_checked(array, np.float32, 1).ctypes.data for array in (gamma, beta)]
        self._library.gptwo_layer_norm(
            self._context(), x.ctypes.data, *weights, epsilon, *x.shape, y.ctypes.data
        )
        return y

    def quantize(
        self, x: Float32[np.ndarray, " K"]
    ) -> tuple[Int8[np.ndarray, "G 32"], Float32[np.ndarray, " G"]]:
        """x in groups of 32: round(127 x / max |x|) and max |x| / 127 of each group."""
        x = _checked(x, np.float32, 1)
        groups = -(-len(x) // 32)
        values, scales = np.empty((groups, 32), np.int8), np.empty(groups, np.float32)
        sums = np.empty(groups, np.int32)
        self._library.gptwo_quantize(
            self._context(), x.ctypes.data, len(x), values.ctypes.data, scales.ctypes.data, sums.ctypes.data
        )
        return values, scales

    def matrix_row(self, matrix: PackedMatrix, row: int) -> Float32[np.ndarray, " K"]:
        """Row ``row`` of W."""
        struct = matrix_struct(matrix, None)
        values = np.empty(matrix.inputs, np.float32)
        self._library.gptwo_matrix_row(self._context(), ctypes.byref(struct), row, values.ctypes.data)
        return values

    def attention(
        self,
        cache: CacheMemory,
        table: Int32[np.ndarray, " blocks"],
        start: int,
        *,
        q: Float32[np.ndarray, "T H K"],
        k: Float32[np.ndarray, "T H K"],
        v: Float32[np.ndarray, "T H K"],
    ) -> Float32[np.ndarray, "T H K"]:
        """Stores k and v at positions start, …, start + T - 1; what each query mixes of the values up to its own."""
        q, k, v = (_checked(array, np.float32, 3) for array in (q, k, v))
        out = np.empty_like(q)
        self._library.gptwo_attention(
            self._context(),
            ctypes.byref(cache.struct),
            table.ctypes.data,
            start,
            len(q),
            q.ctypes.data,
            k.ctypes.data,
            v.ctypes.data,
            out.ctypes.data,
        )
        return out

    def content_hash(self, content: Any) -> int:
        """64 bits of a bytes-like object, at memory's speed: it finds damage, not malice."""
        array = np.frombuffer(content, dtype=np.uint8)
        return int(self._library.gptwo_hash(self._context(), array.ctypes.data, array.size))

    def read_bandwidth(self, memory: Float32[np.ndarray, " n"], repeats: int = 5) -> float:
        """Bytes per second at which all threads together read ``memory``, the best of ``repeats``."""
        memory = _checked(memory, np.float32, 1)
        return float(
            self._library.gptwo_read_bandwidth(self._context(), memory.ctypes.data, memory.nbytes, repeats)
        )

    def multiply_add_peak(self, repeats: int = 5) -> float:
        """FLOPs per second of multiply-adds in registers on all threads, the best of ``repeats``."""
        return float(self._library.gptwo_multiply_add_peak(self._context(), repeats))


def matrix_struct(matrix: PackedMatrix, bias: Float32[np.ndarray, " N"] | None) -> MatrixStruct:
    """Pointers into both, which must outlive it."""
    if bias is not None and _checked(bias, np.float32, 1).shape != (matrix.outputs,):
        raise ValueError(f"a bias of shape {bias.shape} for {matrix.outputs} outputs")
    return MatrixStruct(
        matrix.data.ctypes.data,
        bias.ctypes.data if bias is not None else None,
        matrix.outputs,
        matrix.inputs,
        DTYPES[matrix.dtype],
    )


def _checked(array: Any, dtype: Any, dimensions: int) -> Any:
    if array.dtype != dtype or array.ndim != dimensions or not array.flags.c_contiguous:
        raise ValueError(
            f"an array of {array.dtype}, shape {array.shape}, strides {array.strides}; expected contiguous "
            f"{np.dtype(dtype)} with {dimensions} dimensions"
        )
    return array
