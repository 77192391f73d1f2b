"""The native engine over a model of zeros, for what its steps cost when there is nothing in them."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from gptwo.config import GPT2Config
from gptwo.infer.native_engine import NativeEngine
from gptwo.infer.packed import matrix_dtypes, model_in, places
from gptwo.kernels.layout import PackedDtype
from gptwo.kernels.library import Kernels


def zero_engine(kernels: Kernels, config: GPT2Config, dtype: PackedDtype = "fp32") -> NativeEngine:
    """Its arithmetic takes as long as with any other numbers: the kernels skip none."""
    dtypes = matrix_dtypes(config, dtype)
    return NativeEngine(model_in(_zeros(places(config, dtypes)[-1].end), config, dtypes), kernels)


def _zeros(count: int) -> NDArray[np.uint8]:
    """Memory in pages as those of a file that is mapped, which weights are read from: tokens take 5% longer by them."""
    memory = mmap.mmap(-1, count)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    zeros = np.frombuffer(memory, dtype=np.uint8)
    # What was never written to is one page over and over, which caches keep.
    zeros[:] = 0
    return zeros
