"""Slots of the native engine: which pages of keys and values a pass reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gptwo.infer.engine import Tokens
from gptwo.infer.paging import Pages
from gptwo.infer.prompt import require_tokens
from gptwo.infer.sampler import NativeSampler
from gptwo.kernels.cache import BLOCK, CacheMemory
from gptwo.kernels.top import Top

if TYPE_CHECKING:
    from jaxtyping import Float32, Int, Int64

    from gptwo.infer.native_engine import NativeEngine

Result = TypeVar("Result")


class NativeSession:
    """``engine.Session`` over pages of keys and values."""

    def __init__(self, engine: NativeEngine, cache: CacheMemory, pages: Pages) -> None:
        # Kept, because the kernels read the memory of its weights.
        self._engine = engine
        self._cache = cache
        self._pages = pages

    @property
    def lengths(self) -> Int[np.ndarray, " slots"]:
        return self._pages.lengths.copy()

    @property
    def pool(self) -> int:
        return self._pages.blocks * BLOCK

    @property
    def use(self) -> float:
        return self._pages.use

    def prefill(self, slots: Sequence[int], texts: Sequence[Tokens]) -> Float32[np.ndarray, "n V"]:
        return self._run(slots, texts, [1] * len(texts), self._engine.forward)

    def decode(self, slots: Sequence[int], tokens: Int[np.ndarray, " n"]) -> Float32[np.ndarray, "n V"]:
        return self.prefill(slots, list(tokens[:, None]))

    def read(
        self, slots: Sequence[int], texts: Sequence[Tokens], last: Sequence[int]
    ) -> list[Float32[np.ndarray, "n V"]]:
        return np.split(self._run(slots, texts, last, self._engine.forward), np.cumsum(last)[:-1])

    def read_top(
        self, slots: Sequence[int], texts: Sequence[Tokens], last: Sequence[int], k: int
    ) -> list[Top]:
        top = self._run(slots, texts, last, partial(self._engine.forward_top, k=k))
        cuts = np.cumsum(last)[:-1]
        return [Top(*parts) for parts in zip(*(np.split(array, cuts) for array in top), strict=True)]

    def read_timed(self, slot: int, text: Tokens, k: int) -> tuple[Top, Int64[np.ndarray, " steps"]]:
        """``read_top`` after one text's last token, and the nanoseconds of each step of ``Kernels.forward_top``."""
        times = np.zeros(3 + 7 * self._engine.config.n_layer, np.int64)
        return self._run([slot], [text], [1], partial(self._engine.forward_top, k=k, times=times)), times

    @property
    def sampler(self) -> NativeSampler:
        return self._engine.sampler

    def fits(self, slots: Sequence[int], counts: Sequence[int]) -> bool:
        return self._pages.fit(slots, counts)

    def truncate(self, slot: int, length: int) -> None:
        self._pages.truncate(slot, length)

    def copy(self, source: int, target: int) -> None:
        self._pages.share(source, target)

    def reuse(self, slot: int, tokens: Tokens) -> int:
        return self._pages.reuse(slot, tokens)

    def _run(
        self,
        slots: Sequence[int],
        texts: Sequence[Tokens],
        last: Sequence[int],
        forward: Callable[..., Result],
    ) -> Result:
        counts = [len(text) for text in texts]
        if len(set(slots)) != len(slots) or 0 in counts:
            raise ValueError(
                f"slots {list(slots)} with {counts} tokens; expected distinct slots and a token for each"
            )
        for text in texts:
            require_tokens(text, self._engine.config.vocab_size)
        ends = np.cumsum(counts)
        outputs = np.concatenate([np.arange(end - n, end) for end, n in zip(ends, last, strict=True)])
        starts = [int(self._pages.lengths[slot]) for slot in slots]
        copies = self._pages.extend(slots, counts)
        try:
            for source, target in copies:
                self._cache.copy_block(source, target)
            segments = [(start, self._pages.table(slot)) for start, slot in zip(starts, slots, strict=True)]
            result = forward(self._cache, segments, texts, outputs.astype(np.int32))
        except BaseException:
            for slot, start in zip(slots, starts, strict=True):
                self._pages.truncate(slot, start)
            raise
        self._pages.advance(slots, texts)
        return result
