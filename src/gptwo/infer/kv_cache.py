"""Keys and values of the tokens already seen, in memory that is taken once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gptwo.config import GPT2Config
from gptwo.infer.prompt import require_capacity, require_place

if TYPE_CHECKING:
    from jaxtyping import Float


class KVCache:
    """A pool of slots: L layers of K and V, slots×H×capacity×K each; slot i has filled ``lengths[i]`` positions.

    Takes 2·L·slots·D·capacity elements at once, so that a token costs a copy of itself only. Raises
    ``ContextLengthError`` for a capacity above C and for a token past the capacity.
    """

    def __init__(
        self, config: GPT2Config, *, slots: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        require_capacity(capacity, config.context)
        self.capacity = capacity
        self.lengths = np.zeros(slots, dtype=np.int64)
        shape = (config.n_layer, 2, slots, config.n_head, capacity, config.head_width)
        # Zeros, because a short row is padded with what lies here: a mask hides numbers, but no NaN.
        self.kv_L2BHSK = torch.zeros(shape, device=device, dtype=dtype)

    @property
    def use(self) -> float:
        """The share of the positions that are filled."""
        return float(self.lengths.sum()) / (len(self.lengths) * self.capacity)

    def require_room(self, slots: Sequence[int], counts: Sequence[int]) -> None:
        """``ContextLengthError`` unless each slot has room for so many more tokens."""
        end = max(int(self.lengths[slot]) + count for slot, count in zip(slots, counts, strict=True))
        require_place(end, self.capacity)

    def truncate(self, slot: int, length: int) -> None:
        """Forget what ``slot`` holds from position ``length`` on."""
        assert 0 <= length <= self.lengths[slot], (
            f"slot {slot} holds {self.lengths[slot]} tokens, not {length}"
        )
        self.lengths[slot] = length

    def copy(self, source: int, target: int) -> None:
        """``target`` becomes what ``source`` is; only the filled positions are copied."""
        length = int(self.lengths[source])
        self.kv_L2BHSK[:, :, target, :, :length] = self.kv_L2BHSK[:, :, source, :, :length]
        self.lengths[target] = length


class CacheRows:
    """Some slots of a pool as the rows of one pass over ``count`` new tokens each: ``model.gpt2.Cache``.

    Slots that lie side by side are read where they lie, others are gathered into a copy at every layer.
    """

    def __init__(self, pool: KVCache, slots: Sequence[int], count: int) -> None:
        self._pool = pool
        self._slots = np.array(slots, dtype=np.int64)
        device = pool.kv_L2BHSK.device
        lengths = pool.lengths[self._slots]
        self.length = int(lengths.max())
        self.lengths: Tensor | None = None
        self._rows: slice | Tensor = slice(slots[0], slots[0] + len(slots))
        if list(slots) != list(range(slots[0], slots[0] + len(slots))):
            self._rows = torch.tensor(self._slots, device=device)
        # Where new keys and values go: rows, heads, positions.
        self._places: tuple[Any, ...] = (self._rows, slice(None), slice(self.length, self.length + count))
        if (lengths < self.length).any():
            self.lengths = torch.tensor(lengths, device=device)
            positions_BT = self.lengths[:, None] + torch.arange(count, device=device)
            self._places = (torch.tensor(self._slots, device=device)[:, None], slice(None), positions_BT)

    def append(
        self, layer: int, k_BHTK: Float[Tensor, "B H T K"], v_BHTK: Float[Tensor, "B H T K"]
    ) -> tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]:
        """Store the new keys and values of one layer after those of each row; all S = length + T of them."""
        S = self.length + k_BHTK.shape[2]
        held = self._pool.kv_L2BHSK[layer]
        for held_BHSK, new_BHTK in zip(held, (k_BHTK, v_BHTK), strict=True):
            # Two index tensors with a slice between them put their own shape, B×T, in front.
            held_BHSK[self._places] = new_BHTK if self.lengths is None else new_BHTK.transpose(1, 2)
        return held[0, self._rows, :, :S], held[1, self._rows, :, :S]

    def advance(self, count: int) -> None:
        """The ``count`` tokens that every layer has appended are now part of the rows' slots."""
        self._pool.lengths[self._slots] += count
