"""Which blocks of the cache hold which sequence: a table for each slot, blocks shared where sequences begin alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gptwo.infer.prompt import require_place
from gptwo.kernels.cache import BLOCK

if TYPE_CHECKING:
    from jaxtyping import Int32


class Pages:
    """Slots of at most ``capacity`` tokens over ``blocks`` blocks of 32 positions, as many as all slots can fill.

    A slot takes a block when it comes to it. A block that two slots hold is copied before one of them writes into it.
    """

    def __init__(self, *, slots: int, capacity: int) -> None:
        self.capacity = capacity
        self.lengths = np.zeros(slots, dtype=np.int64)
        per_slot = -(-capacity // BLOCK)
        self.blocks = slots * per_slot
        self._free = list(range(self.blocks - 1, -1, -1))
        self._holders = np.zeros(self.blocks, dtype=np.int32)
        self._tables = np.zeros((slots, per_slot), dtype=np.int32)
        self._held = np.zeros(slots, dtype=np.int64)  # blocks of each slot

    def table(self, slot: int) -> Int32[np.ndarray, " blocks"]:
        """The blocks of a slot, in the order of its positions; a view."""
        table: Int32[np.ndarray, " blocks"] = self._tables[slot]
        return table

    def extend(self, slots: Sequence[int], counts: Sequence[int]) -> list[tuple[int, int]]:
        """Room for so many more tokens in each slot; the (source, target) blocks to copy before they are written.

        Raises ``ContextLengthError`` past the capacity, with nothing changed. ``advance`` makes the tokens count.
        """
        for slot, count in zip(slots, counts, strict=True):
            require_place(self.lengths[slot] + count, self.capacity)
        copies: list[tuple[int, int]] = []
        for slot, count in zip(slots, counts, strict=True):
            first = self.lengths[slot] // BLOCK
            if first < self._held[slot] and self._holders[self._tables[slot, first]] > 1:
                source = int(self._tables[slot, first])
                self._holders[source] -= 1
                copies.append((source, self._take(slot, first)))
            for index in range(self._held[slot], -(-(self.lengths[slot] + count) // BLOCK)):
                self._take(slot, index)
                self._held[slot] = index + 1
        return copies

    def advance(self, slots: Sequence[int], counts: Sequence[int]) -> None:
        """The tokens that ``extend`` made room for are there."""
        for slot, count in zip(slots, counts, strict=True):
            self.lengths[slot] += count

    def truncate(self, slot: int, length: int) -> None:
        """Keep the first ``length`` tokens of a slot; blocks that no slot holds any more are free."""
        if not 0 <= length <= self.lengths[slot]:
            raise ValueError(f"cannot truncate {self.lengths[slot]} tokens to {length}")
        kept = -(-length // BLOCK)
        for block in self._tables[slot, kept : self._held[slot]]:
            self._release(int(block))
        self._held[slot] = kept
        self.lengths[slot] = length

    def share(self, source: int, target: int) -> None:
        """``target`` holds what ``source`` holds, in the same blocks."""
        if source == target:
            return
        self.truncate(target, 0)
        held = -(-self.lengths[source] // BLOCK)
        self._tables[target, :held] = self._tables[source, :held]
        self._holders[self._tables[source, :held]] += 1
        self._held[target] = held
        self.lengths[target] = self.lengths[source]

    def _take(self, slot: int, index: int) -> int:
        block = self._free.pop()
        self._holders[block] = 1
        self._tables[slot, index] = block
        return block

    def _release(self, block: int) -> None:
        self._holders[block] -= 1
        if self._holders[block] == 0:
            self._free.append(block)
