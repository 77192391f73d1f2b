"""The native library for Python: one function for each of its own, over NumPy arrays.

``open_kernels`` gives ``Kernels``: threads, an instruction set, and what can be computed with them. Arrays go in as
C-contiguous NumPy arrays of the dtype that is stated, and are checked. Calls release Python's lock; calls on one
``Kernels`` wait for each other.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo.base.errors import ConfigError
from gptwo.kernels.interface import CacheStruct, MatrixStruct, ModelStruct, SegmentStruct, native_library
from gptwo.kernels.layout import PackedMatrix

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int, Int8, Int32

INSTRUCTION_SET_VARIABLE = "GPTWO_INSTRUCTION_SET"
_DTYPES = {"fp32": 0, "bf16": 1, "int8": 2, "int4": 3}
BLOCK = 32
"""Positions of a sequence that lie together in the cache."""


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


class Kernels:
    """The kernels on a pool of threads; made by ``open_kernels``. After a fork the child opens its own."""

    def __init__(self, threads: int, instruction_set: str) -> None:
        self.threads = threads
        self.instruction_set = instruction_set
        self._library = native_library()
        self._context = self._library.gptwo_open(instruction_set.encode(), threads)
        if not self._context:
            raise MemoryError(f"cannot start {threads} threads: out of memory")
        self._process = os.getpid()
        # Not at the process's end: a thread of Python's may compute until then.
        weakref.finalize(self, _close, self._library, self._context, self._process).atexit = False

    def _here(self) -> Any:
        # A forked child has the memory of the pool, but none of its threads.
        if os.getpid() != self._process:
            self._context = self._library.gptwo_open(self.instruction_set.encode(), self.threads)
            self._process = os.getpid()
            if not self._context:
                raise MemoryError(f"cannot start {self.threads} threads: out of memory")
        return self._context

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
        structs = (SegmentStruct * len(texts))(
            *(
                SegmentStruct(len(text), start, table.ctypes.data)
                for text, (start, table) in zip(texts, segments, strict=True)
            )
        )
        tokens = np.ascontiguousarray(np.concatenate(texts), dtype=np.int32)
        logits = np.empty((len(outputs), model.vocabulary), dtype=np.float32)
        failed = self._library.gptwo_forward(
            self._here(),
            ctypes.byref(model),
            ctypes.byref(cache.struct),
            structs,
            len(texts),
            tokens.ctypes.data,
            outputs.ctypes.data,
            len(outputs),
            logits.ctypes.data,
        )
        if failed:
            raise MemoryError("the forward pass is out of memory")
        return logits

    def log_sum_exp(
        self, logits: Float32[np.ndarray, "n V"]
    ) -> tuple[Float[np.ndarray, " n"], Float32[np.ndarray, " n"], Int32[np.ndarray, " n"]]:
        """Of each row: log Σ exp z in natural units, the largest z, and where it is (the first of equals)."""
        z = _checked(logits, np.float32, 2)
        n, V = z.shape
        sums, largest, indices = np.empty(n), np.empty(n, np.float32), np.empty(n, np.int32)
        self._library.gptwo_log_sum_exp(
            self._here(), z.ctypes.data, n, V, sums.ctypes.data, largest.ctypes.data, indices.ctypes.data
        )
        return sums, largest, indices

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
            self._here(), ctypes.byref(struct), x.ctypes.data, len(x), gelu, added, y.ctypes.data
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
            self._here(), x.ctypes.data, *weights, epsilon, *x.shape, y.ctypes.data
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
            self._here(), x.ctypes.data, len(x), values.ctypes.data, scales.ctypes.data, sums.ctypes.data
        )
        return values, scales

    def matrix_row(self, matrix: PackedMatrix, row: int) -> Float32[np.ndarray, " K"]:
        """Row ``row`` of W."""
        struct = matrix_struct(matrix, None)
        values = np.empty(matrix.inputs, np.float32)
        self._library.gptwo_matrix_row(self._here(), ctypes.byref(struct), row, values.ctypes.data)
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
            self._here(),
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
        return int(self._library.gptwo_hash(self._here(), array.ctypes.data, array.size))

    def read_bandwidth(self, memory: Float32[np.ndarray, " n"], repeats: int = 5) -> float:
        """Bytes per second at which all threads together read ``memory``, the best of ``repeats``."""
        memory = _checked(memory, np.float32, 1)
        return float(
            self._library.gptwo_read_bandwidth(self._here(), memory.ctypes.data, memory.nbytes, repeats)
        )

    def multiply_add_peak(self, repeats: int = 5) -> float:
        """FLOPs per second of multiply-adds in registers on all threads, the best of ``repeats``."""
        return float(self._library.gptwo_multiply_add_peak(self._here(), repeats))


def matrix_struct(matrix: PackedMatrix, bias: Float32[np.ndarray, " N"] | None) -> MatrixStruct:
    """Pointers into both, which must outlive it."""
    if bias is not None and _checked(bias, np.float32, 1).shape != (matrix.outputs,):
        raise ValueError(f"a bias of shape {bias.shape} for {matrix.outputs} outputs")
    return MatrixStruct(
        matrix.data.ctypes.data,
        bias.ctypes.data if bias is not None else None,
        matrix.outputs,
        matrix.inputs,
        _DTYPES[matrix.dtype],
    )


class CacheMemory:
    """Memory for the keys and values of so many blocks of 32 positions, in every layer: ``fp32 | bf16 | int8``.

    Untouched until it is used. ``struct`` is what the kernels take.
    """

    def __init__(self, *, layers: int, heads: int, head_width: int, blocks: int, dtype: str) -> None:
        self.layers = layers
        self.struct = CacheStruct(None, _DTYPES[dtype], blocks, heads, head_width)
        self.bytes = int(native_library().gptwo_cache_bytes(ctypes.byref(self.struct), layers))
        # Zero pages from the system, and 64 bytes more, so that the units begin at a line of the processor's cache.
        self._memory = np.zeros(self.bytes + 64, np.uint8)
        self.struct.data = -(-self._memory.ctypes.data // 64) * 64

    def copy_block(self, source: int, target: int) -> None:
        """Block ``target`` becomes what block ``source`` is, in every layer."""
        native_library().gptwo_copy_block(ctypes.byref(self.struct), self.layers, source, target)


def _checked(array: Any, dtype: Any, dimensions: int) -> Any:
    if array.dtype != dtype or array.ndim != dimensions or not array.flags.c_contiguous:
        raise ValueError(
            f"an array of {array.dtype}, shape {array.shape}, strides {array.strides}; expected contiguous "
            f"{np.dtype(dtype)} with {dimensions} dimensions"
        )
    return array


def _close(library: ctypes.CDLL, context: int, process: int) -> None:
    if os.getpid() == process:
        library.gptwo_close(context)
