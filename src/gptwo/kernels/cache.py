"""Memory for keys and values, in the blocks that the kernels read."""

from __future__ import annotations

import ctypes

import numpy as np

from gptwo.kernels.interface import DTYPES, CacheStruct, native_library

BLOCK = 32
"""Positions of a sequence that lie together in the cache."""


class CacheMemory:
    """Memory for the keys and values of so many blocks of 32 positions, in every layer: ``fp32 | bf16 | int8``.

    Untouched until it is used. ``struct`` is what the kernels take.
    """

    def __init__(self, *, layers: int, heads: int, head_width: int, blocks: int, dtype: str) -> None:
        self.layers = layers
        self.struct = CacheStruct(None, DTYPES[dtype], blocks, heads, head_width)
        self.bytes = int(native_library().gptwo_cache_bytes(ctypes.byref(self.struct), layers))
        # Zero pages from the system, and 64 bytes more, so that the units begin at a line of the processor's cache.
        self._memory = np.zeros(self.bytes + 64, np.uint8)
        self.struct.data = -(-self._memory.ctypes.data // 64) * 64

    def copy_block(self, source: int, target: int) -> None:
        """Block ``target`` becomes what block ``source`` is, in every layer."""
        native_library().gptwo_copy_block(ctypes.byref(self.struct), self.layers, source, target)
