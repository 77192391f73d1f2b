from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from gptwo.base.errors import ContextLengthError
from gptwo.config import GPT2Config
from gptwo.costs import kv_cache_bytes
from gptwo.infer.kv_cache import CacheRows, KVCache

CONFIG = GPT2Config(n_layer=2, n_head=3, n_embd=12, context=9, vocab_size=5)


def empty(slots: int, capacity: int) -> KVCache:
    return KVCache(CONFIG, slots=slots, capacity=capacity, device=torch.device("cpu"), dtype=torch.float32)


def some_keys(rows: int, T: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 3, T, 4, generator=torch.Generator().manual_seed(seed))


def appended(
    cache: KVCache, slots: Sequence[int], T: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """T new keys and values for these slots, 2×B×H×T×K, and all of layers 0 and 1 then, 2×B×H×S×K."""
    rows = CacheRows(cache, slots, T)
    new = torch.stack([some_keys(len(slots), T, seed), some_keys(len(slots), T, seed + 1)])
    first, second = (torch.stack(rows.append(layer, new[0] + layer, new[1] + layer)) for layer in range(2))
    rows.advance(T)
    return new, first, second


@pytest.mark.parametrize("slots", [[0, 1], [1, 2], [2, 0], [1]])
def test_rows_of_one_length_hold_all_that_was_appended_per_layer(slots: list[int]) -> None:
    cache = empty(3, 9)
    held = torch.empty(2, len(slots), 3, 0, 4)
    for seed, T in enumerate([4, 1, 1, 3]):
        new, first, second = appended(cache, slots, T, seed)
        held = torch.cat([held, new], dim=3)
        assert torch.equal(first, held)
        assert torch.equal(second[:, :, :, -T:], new + 1)
    assert cache.lengths.tolist() == [9 if slot in slots else 0 for slot in range(3)]


@pytest.mark.parametrize("slots", [[0, 1, 2], [2, 1, 0], [1, 2]])
def test_rows_of_several_lengths_are_padded_behind(slots: list[int]) -> None:
    cache = empty(3, 9)
    before = {slot: appended(cache, [slot], T, 10 * slot)[0] for slot, T in enumerate([2, 5, 1])}
    new, first, second = appended(cache, slots, 2, 99)
    assert first.shape[3] == 7
    for row, slot in enumerate(slots):
        whole = torch.cat([before[slot][:, 0], new[:, row]], dim=2)
        assert torch.equal(first[:, row, :, : whole.shape[2]], whole)
        assert torch.equal(second[:, row, :, : whole.shape[2]], whole + 1)
        assert torch.isfinite(first[:, row]).all(), "a mask does not hide a NaN"
    assert cache.lengths.tolist() == [2 + 2 * (0 in slots), 5 + 2 * (1 in slots), 1 + 2 * (2 in slots)]


def test_lengths_are_given_to_the_model_only_where_they_differ() -> None:
    cache = empty(3, 9)
    appended(cache, [0, 2], 4)
    assert CacheRows(cache, [0, 2], 1).lengths is None
    rows = CacheRows(cache, [1, 2], 1)
    assert rows.length == 4
    assert rows.lengths is not None
    assert rows.lengths.tolist() == [0, 4]


def test_appending_copies_nothing_that_slots_side_by_side_hold() -> None:
    cache = empty(3, 9)
    appended(cache, [1, 2], 4)
    for slots in ([1, 2], [2], [0, 1, 2]):
        k_BHSK, _ = CacheRows(cache, slots, 1).append(
            0, some_keys(len(slots), 1, 2), some_keys(len(slots), 1, 3)
        )
        assert k_BHSK.data_ptr() == cache.kv_L2BHSK[0, 0, slots[0]].data_ptr()


def test_it_takes_the_memory_that_costs_says() -> None:
    taken = empty(3, 7).kv_L2BHSK.untyped_storage().nbytes()
    assert taken == kv_cache_bytes(CONFIG, batch=3, tokens=7)


def test_copies_do_not_share_memory_and_what_is_cut_off_is_written_over() -> None:
    cache = empty(3, 9)
    new, _, _ = appended(cache, [0], 4)
    appended(cache, [2], 7, seed=5)
    cache.copy(0, 2)
    assert cache.lengths.tolist() == [4, 0, 4]
    cache.truncate(0, 1)
    own, first, _ = appended(cache, [0, 2], 2, seed=9)
    assert torch.equal(first[:, 0, :, :3], torch.cat([new[:, 0, :, :1], own[:, 0]], dim=2))
    assert torch.equal(first[:, 1], torch.cat([new[:, 0], own[:, 1]], dim=2))
    assert cache.lengths.tolist() == [3, 0, 6]


def test_a_slot_cannot_be_cut_to_more_than_it_holds() -> None:
    cache = empty(2, 9)
    appended(cache, [1], 3)
    for length in (4, -1):
        with pytest.raises(AssertionError, match=r"^slot 1 holds 3 tokens"):
            cache.truncate(1, length)


def test_no_more_than_its_capacity_and_no_capacity_above_the_context() -> None:
    cache = empty(2, 3)
    appended(cache, [1], 2)
    cache.require_room([0, 1], [3, 1])
    with pytest.raises(ContextLengthError, match=r"^4 tokens are more than the cache's capacity of 3[^\n]*$"):
        cache.require_room([0, 1], [1, 2])
    with pytest.raises(ContextLengthError, match=r"^a cache of 10 tokens [^\n]* context of 9; [^\n]+$"):
        empty(1, 10)
