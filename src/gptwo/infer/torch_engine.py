"""The engine that runs ``model.GPT2`` with torch, on any of its devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gptwo.base.device import resolve_device
from gptwo.base.errors import ConfigError
from gptwo.base.memory import free_memory_bytes
from gptwo.checkpoint.weights import load_model
from gptwo.config import GPT2Config
from gptwo.costs import kv_cache_bytes
from gptwo.infer.cuda_decode import SWITCH, DecodeGraphs, cuda_graphs
from gptwo.infer.engine import Scores, Tokens
from gptwo.infer.engines import short_dtype
from gptwo.infer.kv_cache import CacheRows, KVCache
from gptwo.infer.sampler import NumpySampler
from gptwo.infer.task import require_count
from gptwo.kernels.top import Top
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
    if short_dtype(name) not in DTYPES:
        raise ConfigError(f"dtype {name!r} is unknown; expected one of {', '.join(DTYPES)}")
    return DTYPES[short_dtype(name)]


def to_host(logits: Float[Tensor, "*rows V"]) -> Float[np.ndarray, "*rows V"]:
    """Logits as NumPy: float32, or float64 when they are that. The one place where numbers leave the device."""
    if logits.dtype != torch.float64:
        logits = logits.float()
    array: np.ndarray[Any, np.dtype[np.float32 | np.float64]] = logits.cpu().numpy()
    return array


class TorchSession:
    """``engine.Session`` over a ``GPT2`` and a ``KVCache``. Texts of one length run in one pass.

    With ``graphs`` of the same two, tokens are decoded through them.
    """

    def __init__(
        self, model: GPT2, cache: KVCache, device: torch.device, graphs: DecodeGraphs | None = None
    ) -> None:
        self._model = model
        self._cache = cache
        self._device = device
        self._graphs = graphs
        self.sampler = NumpySampler()

    @property
    def lengths(self) -> Int[np.ndarray, " slots"]:
        return self._cache.lengths.copy()

    @property
    def pool(self) -> int:
        return len(self._cache.lengths) * self._cache.capacity

    @property
    def use(self) -> float:
        return self._cache.use

    def prefill(self, slots: Sequence[int], texts: Sequence[Tokens]) -> Float[np.ndarray, "n V"]:
        return np.concatenate(self.read(slots, texts, [1] * len(texts)))

    def decode(self, slots: Sequence[int], tokens: Tokens) -> Float[np.ndarray, "n V"]:
        return self.prefill(slots, list(tokens[:, None]))

    @torch.inference_mode()
    def read(
        self, slots: Sequence[int], texts: Sequence[Tokens], last: Sequence[int]
    ) -> list[Float[np.ndarray, "n V"]]:
        self._cache.require_room(slots, [len(text) for text in texts])
        of_length: dict[int, list[int]] = {}
        for i, text in enumerate(texts):
            of_length.setdefault(len(text), []).append(i)
        logits: dict[int, Float[np.ndarray, "T V"]] = {}
        for T, members in of_length.items():
            tokens_BT = np.stack([texts[i] for i in members])
            of_members = [slots[i] for i in members]
            if T == 1 and self._graphs is not None:
                logits_BTV = to_host(self._graphs.decode(of_members, tokens_BT[:, 0]))[:, None]
            else:
                rows = CacheRows(self._cache, of_members, T)
                last_only = all(last[i] <= 1 for i in members)
                tokens = torch.tensor(tokens_BT, device=self._device)
                logits_BTV = to_host(self._model(tokens, cache=rows, last_only=last_only))
            for i, logits_TV in zip(members, logits_BTV, strict=True):
                logits[i] = logits_TV[len(logits_TV) - last[i] :]
        return [logits[i] for i in range(len(texts))]

    def read_top(
        self, slots: Sequence[int], texts: Sequence[Tokens], last: Sequence[int], k: int
    ) -> list[Top]:
        return [self.sampler.top(logits_TV, k) for logits_TV in self.read(slots, texts, last)]

    def fits(self, slots: Sequence[int], counts: Sequence[int]) -> bool:
        return True  # every slot has memory of its own

    def truncate(self, slot: int, length: int) -> None:
        self._cache.truncate(slot, length)

    @torch.inference_mode()
    def copy(self, source: int, target: int) -> None:
        self._cache.copy(source, target)

    def reuse(self, slot: int, tokens: Tokens) -> int:
        return 0


class TorchEngine:
    """``engine.Engine`` over a ``GPT2``, whose parameters are on ``device`` already.

    ``graphs`` makes what the tokens of a session are decoded through; without it every step is run by Python.
    """

    # Its products sum in another order for another number of rows.
    batch_invariant = False
    paged = False

    def __init__(
        self,
        model: GPT2,
        *,
        device: torch.device,
        graphs: Callable[[GPT2, KVCache], DecodeGraphs] | None = None,
    ) -> None:
        self._model = model.eval()
        self._device = device
        self._graphs = graphs
        self._dtype = model.token_embedding.weight.dtype

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: str | None, threads: int | None) -> TorchEngine:
        """The model in ``folder``; ``dtype`` None keeps the stored one. ``DeviceError``, ``ConfigError`` for names.

        ``threads`` are those of all of torch in this process; None leaves them as they are. On a CUDA device tokens
        are decoded in CUDA graphs, unless GPTWO_CUDA_GRAPHS=0 is in the environment.
        """
        place = resolve_device(device)
        if threads is not None:
            require_count("threads", threads)
            torch.set_num_threads(threads)
        model = load_model(folder, device=place, dtype=parse_dtype(dtype) if dtype is not None else None)
        in_graphs = place.type == "cuda" and os.environ.get(SWITCH) != "0"
        return cls(model, device=place, graphs=cuda_graphs if in_graphs else None)

    @property
    def config(self) -> GPT2Config:
        return self._model.config

    @property
    def model(self) -> GPT2:
        """What computes, for those who measure it."""
        return self._model

    @property
    def description(self) -> str:
        described = f"torch on {self._device} in {str(self._dtype).removeprefix('torch.')}"
        if self._device.type == "cuda":
            described += f", decoding {'in' if self._graphs else 'without'} CUDA graphs"
        return described

    @property
    def kv_bytes_per_token(self) -> int:
        return kv_cache_bytes(self.config, batch=1, tokens=1, bytes_per_value=self._dtype.itemsize)

    def free_memory_bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.mem_get_info(self._device)[0]
        return free_memory_bytes()

    @torch.inference_mode()
    def start(self, *, slots: int, capacity: int, pool: int | None = None) -> TorchSession:
        if pool is not None:
            # Every slot has memory of its own for all of its capacity, and there are only as many as that allows.
            slots = max(1, min(slots, pool // capacity))
        cache = KVCache(self.config, slots=slots, capacity=capacity, device=self._device, dtype=self._dtype)
        graphs = self._graphs(self._model, cache) if self._graphs else None
        return TorchSession(self._model, cache, self._device, graphs)

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
