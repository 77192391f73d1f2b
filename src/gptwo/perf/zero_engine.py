"""The native engine over a model of zeros, for what its steps cost when there is nothing in them."""

from __future__ import annotations

from gptwo.config import GPT2Config
from gptwo.infer.native_engine import NativeEngine
from gptwo.infer.packed import matrix_dtypes, model_in, places
from gptwo.kernels.layout import PackedDtype, aligned_bytes
from gptwo.kernels.library import Kernels


def zero_engine(kernels: Kernels, config: GPT2Config, dtype: PackedDtype = "fp32") -> NativeEngine:
    """Its arithmetic takes as long as with any other numbers: the kernels skip none."""
    dtypes = matrix_dtypes(config, dtype)
    memory = aligned_bytes(places(config, dtypes)[-1].end)
    memory[:] = 0
    return NativeEngine(model_in(memory, config, dtypes), kernels)
