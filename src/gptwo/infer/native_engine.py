"""The engine that runs the model with the native CPU kernels: NumPy and our own library, no torch.

A token's logits are bitwise the same whatever is computed beside it: every kernel sums a row in an order of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptwo.base.cores import usable_cores
from gptwo.base.errors import ConfigError, ContextLengthError
from gptwo.base.memory import free_memory_bytes
from gptwo.checkpoint.released_config import read_config
from gptwo.config import GPT2Config
from gptwo.infer.engine import Scores, Tokens
from gptwo.infer.engines import MOST_HEAD_WIDTH, short_dtype
from gptwo.infer.formats import KV_DTYPES
from gptwo.infer.native_session import NativeSession
from gptwo.infer.packed import PackedModel
from gptwo.infer.packed_cache import open_packed
from gptwo.infer.packed_file import native_hash
from gptwo.infer.paging import Pages
from gptwo.infer.prompt import require_capacity
from gptwo.infer.sampler import NativeSampler
from gptwo.kernels.cache import BLOCK, CacheMemory
from gptwo.kernels.interface import BlockStruct, MatrixStruct, ModelStruct
from gptwo.kernels.library import Kernels, matrix_struct, open_kernels
from gptwo.kernels.top import Top

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, Int64

# Logits that scoring holds at a time, in values: 256 rows of V=50257 are 51 MB.
_LOGITS_AT_ONCE = 256 * 50257


class NativeEngine:
    """``engine.Engine`` over packed weights, which it keeps. ``kv_dtype``: of keys and values, "fp32 | bf16 | int8"."""

    batch_invariant = True
    paged = True

    def __init__(self, packed: PackedModel, kernels: Kernels, *, kv_dtype: str | None = None) -> None:
        config = packed.config
        self._packed = packed
        self._kv_dtype = kv_dtype or KV_DTYPES[packed.dtype]
        self._kernels = kernels
        self.sampler = NativeSampler(kernels)
        self._blocks = (BlockStruct * config.n_layer)(
            *(self._block(f"blocks.{i}") for i in range(config.n_layer))
        )
        self._model = ModelStruct(
            config.n_layer,
            config.n_head,
            config.n_embd,
            config.mlp_width,
            config.vocab_size,
            config.layer_norm_epsilon,
            matrix_struct(packed.matrices["token_embedding.weight"], None),
            self._vector("position_embedding.weight"),
            self._vector("final_norm.weight"),
            self._vector("final_norm.bias"),
            self._blocks,
        )

    @classmethod
    def load(
        cls, folder: Path, *, dtype: str | None, threads: int | None, kv_dtype: str | None = None
    ) -> NativeEngine:
        """The model in ``folder``, memory-mapped. Raises ``NativeLibraryError`` where the kernels were not built."""
        if (width := read_config(folder).head_width) > MOST_HEAD_WIDTH:
            raise ConfigError(
                f"heads of width {width} are more than the native kernels' {MOST_HEAD_WIDTH}; use engine=torch"
            )
        kernels = open_kernels(usable_cores() if threads is None else threads)
        packed = open_packed(folder, None if dtype is None else short_dtype(dtype), native_hash(kernels))
        return cls(packed, kernels, kv_dtype=None if kv_dtype is None else short_dtype(kv_dtype))

    @property
    def config(self) -> GPT2Config:
        return self._packed.config

    @property
    def packed(self) -> PackedModel:
        """The weights that it multiplies by, for those who look inside."""
        return self._packed

    @property
    def kernels(self) -> Kernels:
        """What computes, for those who measure it."""
        return self._kernels

    @property
    def description(self) -> str:
        threads = "1 thread" if self._kernels.threads == 1 else f"{self._kernels.threads} threads"
        weights = self._packed.dtype
        kept = "" if self._kv_dtype == KV_DTYPES[weights] else f" with keys and values in {self._kv_dtype}"
        return f"native on cpu in {weights}{kept} ({self._kernels.instruction_set}, {threads})"

    @property
    def kv_dtype(self) -> str:
        """Of keys and values."""
        return self._kv_dtype

    @property
    def kv_bytes_per_token(self) -> int:
        return self._cache(blocks=1).bytes // BLOCK

    def free_memory_bytes(self) -> int:
        return free_memory_bytes()

    def start(self, *, slots: int, capacity: int, pool: int | None = None) -> NativeSession:
        require_capacity(capacity, self.config.context)
        pages = Pages(slots=slots, capacity=capacity, pool=pool)
        return NativeSession(self, self._cache(blocks=pages.blocks), pages)

    def _cache(self, *, blocks: int) -> CacheMemory:
        config = self.config
        return CacheMemory(
            layers=config.n_layer,
            heads=config.n_head,
            head_width=config.head_width,
            blocks=blocks,
            dtype=self._kv_dtype,
        )

    def forward(
        self,
        cache: CacheMemory,
        segments: Sequence[tuple[int, Int32[np.ndarray, " blocks"]]],
        texts: Sequence[Tokens],
        outputs: Int32[np.ndarray, " n"],
    ) -> Float32[np.ndarray, "n V"]:
        """``Kernels.forward`` of this model."""
        return self._kernels.forward(self._model, cache, list(segments), list(texts), outputs)

    def forward_top(
        self,
        cache: CacheMemory,
        segments: Sequence[tuple[int, Int32[np.ndarray, " blocks"]]],
        texts: Sequence[Tokens],
        outputs: Int32[np.ndarray, " n"],
        *,
        k: int,
        times: Int64[np.ndarray, " steps"] | None = None,
    ) -> Top:
        """``Kernels.forward_top`` of this model."""
        return self._kernels.forward_top(
            self._model, cache, list(segments), list(texts), outputs, k=k, times=times
        )

    def logits(self, tokens: Tokens) -> Float32[np.ndarray, "T V"]:
        self._check_length(len(tokens))
        return self.start(slots=1, capacity=len(tokens)).read([0], [tokens], [len(tokens)])[0]

    def score(self, rows: Sequence[Tokens], last: Sequence[int]) -> list[Scores]:
        for row in rows:
            self._check_length(len(row) - 1)
        at_once = max(1, _LOGITS_AT_ONCE // self.config.vocab_size)
        scores: list[Scores] = []
        while len(scores) < len(rows):
            # As many rows as together predict no more tokens than that; one that predicts more goes alone.
            begin = len(scores)
            predicted = np.cumsum(last[begin:])
            end = begin + max(1, int(np.searchsorted(predicted, at_once, side="right")))
            scores += self._scored(rows[begin:end], last[begin:end], at_once)
        return scores

    def _scored(self, rows: Sequence[Tokens], last: Sequence[int], at_once: int) -> list[Scores]:
        """``score`` of these rows, side by side: all before their predictions, then so many of these at a time."""
        session = self.start(slots=len(rows), capacity=max(map(len, rows)) - 1)
        firsts = [len(row) - 1 - n for row, n in zip(rows, last, strict=True)]
        begun = [i for i, first in enumerate(firsts) if first > 0]
        if begun:
            session.read(begun, [rows[i][: firsts[i]] for i in begun], [0] * len(begun))
        parts: list[list[tuple[NDArray[np.float32], NDArray[np.bool_]]]] = [[] for _ in rows]
        for done in range(0, max(last), at_once):
            going = [i for i, n in enumerate(last) if n > done]
            ends = [min(firsts[i] + done + at_once, len(rows[i]) - 1) for i in going]
            texts = [rows[i][firsts[i] + done : end] for i, end in zip(going, ends, strict=True)]
            logits = np.concatenate(session.read(going, texts, [len(text) for text in texts]))
            targets = np.concatenate(
                [rows[i][firsts[i] + done + 1 : end + 1] for i, end in zip(going, ends, strict=True)]
            )
            top = self._kernels.top(logits, 1)
            log_probs = (logits[np.arange(len(targets)), targets] - top.log_sum_exp_n).astype(np.float32)
            greedy = top.ids_nk[:, 0]
            cuts = np.cumsum([len(text) for text in texts])[:-1]
            for i, *part in zip(
                going, np.split(log_probs, cuts), np.split(greedy == targets, cuts), strict=True
            ):
                parts[i].append((part[0], part[1]))
        return [Scores(*map(np.concatenate, zip(*of_row, strict=True))) for of_row in parts]

    def _check_length(self, tokens: int) -> None:
        if tokens > self.config.context:
            raise ContextLengthError(
                f"{tokens} tokens are more than the model's context of {self.config.context}; shorten the text"
            )

    def _vector(self, name: str) -> int:
        return int(self._packed.vectors[name].ctypes.data)

    def _block(self, name: str) -> BlockStruct:
        def linear(part: str) -> MatrixStruct:
            bias = self._packed.vectors[f"{name}.{part}.bias"]
            return matrix_struct(self._packed.matrices[f"{name}.{part}.weight"], bias)

        return BlockStruct(
            self._vector(f"{name}.attention_norm.weight"),
            self._vector(f"{name}.attention_norm.bias"),
            linear("attention.qkv"),
            linear("attention.output"),
            self._vector(f"{name}.mlp_norm.weight"),
            self._vector(f"{name}.mlp_norm.bias"),
            linear("mlp.up"),
            linear("mlp.down"),
        )
