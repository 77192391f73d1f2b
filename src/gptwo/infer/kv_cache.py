"""Keys and values of the tokens already seen, in memory that is taken once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gptwo.base.errors import ContextLengthError
from gptwo.config import GPT2Config

if TYPE_CHECKING:
    from jaxtyping import Float


class KVCache:
    """L layers of K and V, B×H×capacity×K each, of which the first ``length`` positions are filled.

    ``model.gpt2.Cache``. Takes 2·L·B·D·capacity elements at once, so that a token costs a copy of itself only.
    Raises ``ContextLengthError`` for a capacity above C and for a token past the capacity.
    """

    def __init__(
        self, config: GPT2Config, *, rows: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        if capacity > config.context:
            raise ContextLengthError(
                f"a cache of {capacity} tokens is more than the model's context of {config.context}; ask for less"
            )
        self.length = 0
        self.capacity = capacity
        shape = (config.n_layer, 2, rows, config.n_head, capacity, config.head_width)
        self._kv_L2BHSK = torch.empty(shape, device=device, dtype=dtype)

    def append(
        self, layer: int, k_BHTK: Float[Tensor, "B H T K"], v_BHTK: Float[Tensor, "B H T K"]
    ) -> tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]:
        """Store T new keys and values of one layer after ``length``; views of all S = length + T of them."""
        end = self.length + k_BHTK.shape[2]
        if end > self.capacity:
            raise ContextLengthError(f"{end} tokens are more than the cache's capacity of {self.capacity}")
        k_BHSK, v_BHSK = self._kv_L2BHSK[layer, :, :, :, :end].unbind(0)
        k_BHSK[:, :, self.length :] = k_BHTK
        v_BHSK[:, :, self.length :] = v_BHTK
        return k_BHSK, v_BHSK

    def advance(self, count: int) -> None:
        """The ``count`` tokens that every layer has appended are now part of ``length``."""
        self.length += count

    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes a copy of what row ``rows[i]`` was; only the filled positions are copied."""
        old_L2BHSK = self._kv_L2BHSK
        L, _, _, H, S, K = old_L2BHSK.shape
        self._kv_L2BHSK = old_L2BHSK.new_empty((L, 2, len(rows), H, S, K))
        index = torch.tensor(rows, device=old_L2BHSK.device)
        self._kv_L2BHSK[..., : self.length, :] = old_L2BHSK[..., : self.length, :].index_select(2, index)
