"""The reference of a loaded model: the same numbers as its engine multiplies by, as far as float32 has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gptwo.base.errors import ConfigError
from gptwo.checkpoint.released_config import read_config
from gptwo.checkpoint.weights import load_weights
from gptwo.explanation.reference import Reference
from gptwo.infer.api import LanguageModel
from gptwo.infer.engine import Engine
from gptwo.infer.native_engine import NativeEngine
from gptwo.infer.packed import PackedModel
from gptwo.infer.torch_engine import DTYPES, TorchEngine
from gptwo.kernels.layout import unpack

# A model is explained again and again; its reference goes when the model does.
_KEPT: WeakKeyDictionary[LanguageModel, dict[str, Reference]] = WeakKeyDictionary()


def reference_of(model: LanguageModel, dtype: str | None = None) -> Reference:
    """The reference of ``model``, made once for each dtype and kept as long as the model.

    ``dtype`` is "fp32" or "fp64"; None is fp64 where the engine computes in that, else fp32. Weights that the engine
    has rounded (bf16, int8, int4) are taken as they were rounded. Raises ``ConfigError`` for another dtype.
    """
    if dtype not in (None, "fp32", "fp64"):
        raise ConfigError(f"dtype={dtype!r} is not possible for the reference; expected 'fp32' or 'fp64'")
    kept = _KEPT.setdefault(model, {})
    if (key := dtype or "engine's") not in kept:
        kept[key] = _made(model.engine, model.folder, dtype)
    return kept[key]


def _made(engine: Engine, folder: Path, dtype: str | None) -> Reference:
    if isinstance(engine, TorchEngine):
        own = engine.model.token_embedding.weight.dtype
        wanted = DTYPES[dtype] if dtype else torch.promote_types(own, torch.float32)
        parameters = {name: p.detach().to(wanted) for name, p in engine.model.named_parameters()}
        return Reference(engine.config, parameters, _words(own, wanted))
    wanted = DTYPES[dtype or "fp32"]
    if isinstance(engine, NativeEngine) and engine.packed.dtype != "fp32":
        packed = engine.packed
        return Reference(
            packed.config, _unpacked(packed, wanted), f"as they are in {packed.dtype}, in {_name(wanted)}"
        )
    return Reference(
        read_config(folder),
        load_weights(folder, device="cpu", dtype=wanted),
        f"as stored, in {_name(wanted)}",
    )


def _unpacked(packed: PackedModel, dtype: torch.dtype) -> Mapping[str, Tensor]:
    arrays: dict[str, Any] = {name: unpack(matrix) for name, matrix in packed.matrices.items()}
    arrays |= {name: vector.copy() for name, vector in packed.vectors.items()}
    return {name: torch.from_numpy(array).to(dtype) for name, array in arrays.items()}


def _words(own: torch.dtype, wanted: torch.dtype) -> str:
    return f"the engine's own, in {_name(wanted)}" + ("" if own == wanted else f" (they are in {_name(own)})")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
