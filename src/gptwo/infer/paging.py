"""Which blocks of the cache hold which sequence: a table for each slot, blocks shared where sequences begin alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from gptwo.base.errors import ContextLengthError
from gptwo.infer.engine import Tokens
from gptwo.infer.prompt import require_place
from gptwo.kernels.cache import BLOCK

if TYPE_CHECKING:
    from jaxtyping import Int32

# What a block that begins a text follows.
_BEGINNING = 0


class Pages:
    """Slots of at most ``capacity`` tokens over blocks of 32 positions, enough for ``pool`` tokens, or for all slots.

    A slot takes a block when it comes to it. A block that two slots hold is copied before one of them writes into it.
    A full block is kept when its last slot has gone, until its memory is needed: ``reuse`` finds it again by its
    tokens and all those before it. The one that was let go longest ago is given up first.
    """

    def __init__(self, *, slots: int, capacity: int, pool: int | None = None) -> None:
        self.capacity = capacity
        self.lengths = np.zeros(slots, dtype=np.int64)
        per_slot = -(-capacity // BLOCK)
        self.blocks = (
            slots * per_slot if pool is None else min(slots * per_slot, max(pool // BLOCK, per_slot))
        )
        self._free = list(range(self.blocks - 1, -1, -1))
        self._holders = np.zeros(self.blocks, dtype=np.int32)
        self._tables = np.zeros((slots, per_slot), dtype=np.int32)
        self._held = np.zeros(slots, dtype=np.int64)  # blocks of each slot
        self._tokens = np.zeros((slots, capacity), dtype=np.int64)
        # A full block is known by what it follows and its tokens. What it is followed by knows it by a number that no
        # other content ever has, so a chain of them says all tokens from the beginning, and nothing is hashed.
        self._numbers = count(_BEGINNING + 1)
        self._known: dict[tuple[int, bytes], int] = {}  # to the block
        self._names: dict[
            int, tuple[int, tuple[int, bytes]]
        ] = {}  # of a block: its number, and its key in _known
        self._kept: OrderedDict[int, None] = OrderedDict()  # known blocks without a holder, the oldest first

    @property
    def use(self) -> float:
        """The share of the blocks that slots hold."""
        return 1 - self._available() / self.blocks

    def table(self, slot: int) -> Int32[np.ndarray, " blocks"]:
        """The blocks of a slot, in the order of its positions; a view."""
        table: Int32[np.ndarray, " blocks"] = self._tables[slot]
        return table

    def fit(self, slots: Sequence[int], counts: Sequence[int]) -> bool:
        """Whether there are blocks for so many more tokens in each slot."""
        return self._needed(slots, counts) <= self._available()

    def extend(self, slots: Sequence[int], counts: Sequence[int]) -> list[tuple[int, int]]:
        """Room for so many more tokens in each slot; the (source, target) blocks to copy before they are written.

        Raises ``ContextLengthError`` past the capacity or the pool, with nothing changed. ``advance`` makes the tokens
        count.
        """
        for slot, more in zip(slots, counts, strict=True):
            require_place(self.lengths[slot] + more, self.capacity)
        if (needed := self._needed(slots, counts)) > self._available():
            raise ContextLengthError(
                f"{needed} blocks of {BLOCK} tokens are needed, and {self._available()} of the pool's "
                f"{self.blocks} are free; let other texts end, or give the pool more memory"
            )
        copies: list[tuple[int, int]] = []
        for slot, more in zip(slots, counts, strict=True):
            first = int(self.lengths[slot] // BLOCK)
            if more and first < self._held[slot]:
                begun = int(self._tables[slot, first])
                if self._holders[begun] > 1:
                    self._holders[begun] -= 1
                    copies.append((begun, self._take(slot, first)))
                else:
                    self._forget(begun)  # it was full once, and is written anew
            for index in range(self._held[slot], -(-(self.lengths[slot] + more) // BLOCK)):
                self._take(slot, index)
                self._held[slot] = index + 1
        return copies

    def advance(self, slots: Sequence[int], texts: Sequence[Tokens]) -> None:
        """The tokens that ``extend`` made room for are there: these."""
        for slot, text in zip(slots, texts, strict=True):
            length = int(self.lengths[slot])
            self._tokens[slot, length : length + len(text)] = text
            self.lengths[slot] = length + len(text)
            for index in range(length // BLOCK, (length + len(text)) // BLOCK):
                self._learn(slot, index)

    def truncate(self, slot: int, length: int) -> None:
        """Keep the first ``length`` tokens of a slot; blocks that no slot holds any more are free."""
        if not 0 <= length <= self.lengths[slot]:
            raise ValueError(f"cannot truncate {self.lengths[slot]} tokens to {length}")
        kept = -(-length // BLOCK)
        # The last first: what follows a block is of no use without it, and is to be given up before it.
        for block in self._tables[slot, kept : self._held[slot]][::-1]:
            self._release(int(block))
        self._held[slot] = kept
        self.lengths[slot] = length

    def share(self, source: int, target: int) -> None:
        """``target`` holds what ``source`` holds, in the same blocks."""
        if source == target:
            return
        self.truncate(target, 0)
        length = int(self.lengths[source])
        self._hold(
            target, self._tables[source, : -(-length // BLOCK)].tolist(), self._tokens[source, :length]
        )

    def reuse(self, slot: int, tokens: Tokens) -> int:
        """Fill an empty slot from full blocks that hold the beginning of ``tokens``; how many tokens those are.

        The last token is left out, since somebody wants the logits that follow it.
        """
        if self.lengths[slot]:
            raise ValueError(f"slot {slot} holds {self.lengths[slot]} tokens; expected an empty one")
        found: list[int] = []
        before = _BEGINNING
        for start in range(0, min(len(tokens) - 1, self.capacity) // BLOCK * BLOCK, BLOCK):
            block = self._known.get((before, tokens[start : start + BLOCK].tobytes()))
            if block is None:
                break
            found.append(block)
            before = self._names[block][0]
        self._hold(slot, found, tokens[: len(found) * BLOCK])
        return len(found) * BLOCK

    def _hold(self, slot: int, blocks: list[int], tokens: Tokens) -> None:
        """An empty slot holds these blocks, and in them these tokens."""
        for block in blocks:
            self._kept.pop(block, None)
            self._holders[block] += 1
        self._tables[slot, : len(blocks)] = blocks
        self._tokens[slot, : len(tokens)] = tokens
        self._held[slot] = len(blocks)
        self.lengths[slot] = len(tokens)

    def _available(self) -> int:
        return len(self._free) + len(self._kept)

    def _needed(self, slots: Sequence[int], counts: Sequence[int]) -> int:
        needed = 0
        shared: dict[int, int] = {}  # blocks that are to be copied, and for how many of their holders
        for slot, more in zip(slots, counts, strict=True):
            needed += max(0, -(-(self.lengths[slot] + more) // BLOCK) - self._held[slot])
            first = self.lengths[slot] // BLOCK
            if more and first < self._held[slot]:
                block = int(self._tables[slot, first])
                # The last of its holders writes into it as it is.
                if self._holders[block] - shared.get(block, 0) > 1:
                    shared[block] = shared.get(block, 0) + 1
        return int(needed) + sum(shared.values())

    def _take(self, slot: int, index: int) -> int:
        if not self._free:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            self._forget(oldest)
            self._free.append(oldest)
        block = self._free.pop()
        self._holders[block] = 1
        self._tables[slot, index] = block
        return block

    def _release(self, block: int) -> None:
        self._holders[block] -= 1
        if self._holders[block] == 0:
            if block in self._names:
                self._kept[block] = None
            else:
                self._free.append(block)

    def _learn(self, slot: int, index: int) -> None:
        """Block ``index`` of a slot is full: from now on it is known. One that has the same content takes its place."""
        before = self._names[int(self._tables[slot, index - 1])][0] if index else _BEGINNING
        key = (before, self._tokens[slot, index * BLOCK : (index + 1) * BLOCK].tobytes())
        block = int(self._tables[slot, index])
        known = self._known.setdefault(key, block)
        if known == block:
            self._names[block] = (next(self._numbers), key)
            return
        self._kept.pop(known, None)
        self._holders[known] += 1
        self._tables[slot, index] = known
        self._release(block)

    def _forget(self, block: int) -> None:
        if name := self._names.pop(block, None):
            del self._known[name[1]]
