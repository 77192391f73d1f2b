"""What an engine keeps of a model, known from its folder before any of it is loaded. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from gptwo.checkpoint.layout import PACKED_NAMES, packed_file
from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.released_config import adapter_base, is_adapter, read_config
from gptwo.checkpoint.stored import StoredTensor, stored_tensors
from gptwo.infer.engines import short_dtype

# Keys and values beside weights of each dtype, unless asked for otherwise: docs/decisions/0020-keys-and-values.md.
KV_DTYPES = {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "int4": "int8"}
_TORCH_DTYPES = {"F32": "fp32", "BF16": "bf16", "F16": "fp16", "F64": "fp64"}


class Formats(NamedTuple):
    """The dtype of the weights, and that of keys and values."""

    weights: str
    kv: str


def formats_of(folder: Path, *, engine: str, dtype: str | None, kv_dtype: str | None) -> Formats:
    """Those of the engine that is called "native" or "torch", for the dtypes asked for or left to it (None).

    Raises ``CheckpointError`` for a folder that is not whole.
    """
    weights = _stored_dtype(folder, engine) if dtype is None else short_dtype(dtype)
    if engine == "torch":
        return Formats(weights, weights)
    return Formats(weights, KV_DTYPES[weights] if kv_dtype is None else short_dtype(kv_dtype))


def native_dtype(stored: Mapping[str, StoredTensor]) -> Literal["fp32", "bf16"]:
    """How the native engine packs weights that no dtype was asked for: bf16 as that, every other float as fp32."""
    return "bf16" if {tensor.record.dtype for tensor in stored.values()} == {"BF16"} else "fp32"


def _stored_dtype(folder: Path, engine: str) -> str:
    if is_adapter(folder):
        return _stored_dtype(adapter_base(folder), engine)
    if (packed := packed_file(folder)) is not None:
        return next(dtype for dtype, name in PACKED_NAMES.items() if name == packed.name)
    stored = stored_tensors(folder, parameter_table(read_config(folder)))
    if engine == "native":
        return native_dtype(stored)
    return _TORCH_DTYPES[next(iter(stored.values())).record.dtype]
