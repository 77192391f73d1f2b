"""The engine that runs ``model.GPT2`` with torch, on any of its devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gptwo.base.device import resolve_device
from gptwo.base.errors import ConfigError
from gptwo.checkpoint.weights import load_model
from gptwo.config import GPT2Config
from gptwo.infer.engine import Scores, Tokens
from gptwo.infer.kv_cache import KVCache
from gptwo.model import products
from gptwo.model.gpt2 import GPT2

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}
# Logits that scoring holds at a time, in values: 512 rows of V=50257 are 103 MB in fp32.
_LOGITS_AT_ONCE = 512 * 50257


def parse_dtype(name: str) -> torch.dtype:
    """``fp32 | bf16 | fp16 | fp64`` or torch's own names, with or without "torch."; else ``ConfigError``."""
    for short, dtype in DTYPES.items():
        if name.removeprefix("torch.") in (short, str(dtype).removeprefix("torch.")):
            return dtype
    raise ConfigError(f"dtype {name!r} is unknown; expected one of {', '.join(DTYPES)}")


def to_host(logits: Float[Tensor, "*rows V"]) -> Float[np.ndarray, "*rows V"]:
    """Logits as NumPy: float32, or float64 when they are that. The one place where numbers leave the device."""
    if logits.dtype != torch.float64:
        logits = logits.float()
    array: np.ndarray[Any, np.dtype[np.float32 | np.float64]] = logits.cpu().numpy()
    return array


class TorchSession:
    """``engine.Session`` over a ``GPT2`` and a ``KVCache``."""

    def __init__(self, model: GPT2, cache: KVCache, device: torch.device) -> None:
        self._model = model
        self._cache = cache
        self._device = device

    @property
    def length(self) -> int:
        return self._cache.length

    @torch.inference_mode()
    def prefill(self, tokens: Tokens) -> Float[np.ndarray, "B V"]:
        tokens_BT = torch.tensor(tokens, device=self._device)
        return to_host(self._model(tokens_BT, cache=self._cache, last_only=True)[:, 0])

    def decode(self, tokens: Tokens) -> Float[np.ndarray, "B V"]:
        return self.prefill(tokens[:, None])

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        self._cache.select(rows)


class TorchEngine:
    """``engine.Engine`` over a ``GPT2``, whose parameters are on ``device`` already."""

    def __init__(self, model: GPT2, *, device: torch.device) -> None:
        self._model = model.eval()
        self._device = device
        self._dtype = model.token_embedding.weight.dtype

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: str | None) -> TorchEngine:
        """The model in ``folder``; ``dtype`` None keeps the stored one. ``DeviceError``, ``ConfigError`` for names."""
        place = resolve_device(device)
        model = load_model(folder, device=place, dtype=parse_dtype(dtype) if dtype is not None else None)
        return cls(model, device=place)

    @property
    def config(self) -> GPT2Config:
        return self._model.config

    @property
    def description(self) -> str:
        return f"torch on {self._device} in {str(self._dtype).removeprefix('torch.')}"

    @torch.inference_mode()
    def start(self, *, rows: int, capacity: int) -> TorchSession:
        cache = KVCache(self.config, rows=rows, capacity=capacity, device=self._device, dtype=self._dtype)
        return TorchSession(self._model, cache, self._device)

    @torch.inference_mode()
    def logits(self, tokens: Tokens) -> Float[np.ndarray, "T V"]:
        return to_host(self._model(torch.tensor(tokens, device=self._device)[None])[0])

    @torch.inference_mode()
    def score(self, rows: Sequence[Tokens], last: Sequence[int]) -> list[Scores]:
        T = max(map(len, rows)) - 1
        # Padding behind a row changes nothing in it: no token sees those after it.
        tokens_BT = np.zeros((len(rows), T), dtype=np.int64)
        for padded, row in zip(tokens_BT, rows, strict=True):
            padded[: len(row) - 1] = row[:-1]
        ends = [i * T + len(row) - 1 for i, row in enumerate(rows)]
        places_n = np.concatenate([np.arange(end - n, end) for end, n in zip(ends, last, strict=True)])
        targets_n = np.concatenate([row[-n:] for row, n in zip(rows, last, strict=True)])
        residual_BTD = self._model.residual(torch.tensor(tokens_BT, device=self._device))
        residual_nD = residual_BTD.flatten(0, 1)[torch.tensor(places_n, device=self._device)]
        parts = self._scored(residual_nD, torch.tensor(targets_n, device=self._device))
        log_probs_n, greedy_n = (to_host(torch.cat(part)) for part in zip(*parts, strict=True))
        cuts = np.cumsum(last)[:-1]
        return [
            Scores(*pair)
            for pair in zip(np.split(log_probs_n, cuts), np.split(greedy_n > 0, cuts), strict=True)
        ]

    def _scored(
        self, residual_nD: Float[Tensor, "n D"], targets_n: Int[Tensor, " n"]
    ) -> Iterator[tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]]:
        """log softmax(residual Eᵀ)[target], and whether the target has the largest logit, some rows at a time."""
        at_once = max(1, _LOGITS_AT_ONCE // self.config.vocab_size)
        exact = torch.promote_types(residual_nD.dtype, torch.float32)
        for start in range(0, len(targets_n), at_once):
            targets_m = targets_n[start : start + at_once]
            residual_mD = residual_nD[start : start + at_once]
            logits_mV = products.linear(residual_mD, self._model.token_embedding.weight, None).to(exact)
            chosen_m = logits_mV.gather(1, targets_m[:, None])[:, 0]
            yield chosen_m - logits_mV.logsumexp(dim=1), logits_mV.argmax(dim=1) == targets_m
