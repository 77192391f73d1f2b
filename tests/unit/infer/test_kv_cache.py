from __future__ import annotations

import pytest
import torch

from gptwo.base.errors import ContextLengthError
from gptwo.config import GPT2Config
from gptwo.costs import kv_cache_bytes
from gptwo.infer.kv_cache import KVCache

CONFIG = GPT2Config(n_layer=2, n_head=3, n_embd=12, context=9, vocab_size=5)


def empty(rows: int, capacity: int) -> KVCache:
    return KVCache(CONFIG, rows=rows, capacity=capacity, device=torch.device("cpu"), dtype=torch.float32)


def some_keys(rows: int, T: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 3, T, 4, generator=torch.Generator().manual_seed(seed))


def test_it_returns_all_that_was_appended_per_layer() -> None:
    cache = empty(2, 9)
    held: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for seed, T in enumerate([4, 1, 1, 3]):
        for layer in range(2):
            k, v = some_keys(2, T, 10 * seed + layer), some_keys(2, T, 100 + 10 * seed + layer)
            held[layer].append(torch.stack([k, v]))
            got = torch.stack(cache.append(layer, k, v))
            assert torch.equal(got, torch.cat(held[layer], dim=3))
        cache.advance(T)
    assert cache.length == 9


def test_appending_copies_nothing_that_it_holds() -> None:
    cache = empty(2, 9)
    first, _ = cache.append(0, some_keys(2, 4, 0), some_keys(2, 4, 1))
    cache.advance(4)
    second, _ = cache.append(0, some_keys(2, 1, 2), some_keys(2, 1, 3))
    assert second.data_ptr() == first.data_ptr()


def test_it_takes_the_memory_that_costs_says() -> None:
    k, v = empty(3, 7).append(1, some_keys(3, 7, 0), some_keys(3, 7, 1))
    taken = k.untyped_storage().nbytes()
    assert v.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
    assert taken == kv_cache_bytes(CONFIG, batch=3, tokens=7)


def test_selected_rows_are_copies_that_do_not_share_memory() -> None:
    cache = empty(3, 9)
    k, v = some_keys(3, 4, 0), some_keys(3, 4, 1)
    for layer in range(2):
        cache.append(layer, k, v)
    cache.advance(4)
    cache.select([2, 0, 2, 2])
    new_k, new_v = some_keys(4, 2, 2), some_keys(4, 2, 3)
    got_k, got_v = cache.append(0, new_k, new_v)
    assert torch.equal(got_k, torch.cat([k[[2, 0, 2, 2]], new_k], dim=2))
    assert torch.equal(got_v, torch.cat([v[[2, 0, 2, 2]], new_v], dim=2))


def test_no_more_than_its_capacity_and_no_capacity_above_the_context() -> None:
    cache = empty(1, 3)
    with pytest.raises(ContextLengthError, match=r"^4 tokens are more than the cache's capacity of 3[^\n]*$"):
        cache.append(0, some_keys(1, 4, 0), some_keys(1, 4, 1))
    with pytest.raises(ContextLengthError, match=r"^a cache of 10 tokens [^\n]* context of 9; [^\n]+$"):
        empty(1, 10)
