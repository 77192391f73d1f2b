from __future__ import annotations

import numpy as np
import pytest

from gptwo.base.errors import ContextLengthError
from gptwo.infer.paging import Pages


def filled(pages: Pages, slot: int, count: int) -> list[tuple[int, int]]:
    copies = pages.extend([slot], [count])
    pages.advance([slot], [count])
    return copies


def blocks_of(pages: Pages, slot: int) -> list[int]:
    return pages.table(slot)[: -(-int(pages.lengths[slot]) // 32)].tolist()


def test_a_slot_takes_a_block_when_it_comes_to_it() -> None:
    pages = Pages(slots=2, capacity=70)
    assert pages.blocks == 6
    assert filled(pages, 0, 32) == []
    assert len(blocks_of(pages, 0)) == 1
    filled(pages, 0, 1)
    filled(pages, 1, 70)
    assert len({*blocks_of(pages, 0), *blocks_of(pages, 1)}) == 5


def test_a_shared_block_is_copied_before_it_is_written() -> None:
    pages = Pages(slots=2, capacity=96)
    filled(pages, 0, 40)
    pages.share(0, 1)
    assert blocks_of(pages, 0) == blocks_of(pages, 1)
    whole, begun = blocks_of(pages, 0)
    ((source, target),) = filled(pages, 1, 1)
    assert source == begun
    assert blocks_of(pages, 1) == [whole, target]
    assert filled(pages, 0, 1) == []
    assert blocks_of(pages, 0) == [whole, begun]


def test_a_whole_shared_block_that_is_cut_is_copied_too() -> None:
    pages = Pages(slots=2, capacity=64)
    filled(pages, 0, 64)
    pages.share(0, 1)
    pages.truncate(1, 10)
    assert len(filled(pages, 1, 1)) == 1
    assert filled(pages, 0, 0) == []


def test_freed_blocks_serve_again_whatever_is_shared_and_cut() -> None:
    pages = Pages(slots=3, capacity=100)
    choose = np.random.default_rng(0)
    for _ in range(2000):
        slot, other = (int(x) for x in choose.choice(3, 2, replace=False))
        match choose.integers(3):
            case 0:
                filled(pages, slot, int(choose.integers(0, 101 - pages.lengths[slot])))
            case 1:
                pages.truncate(slot, int(choose.integers(0, pages.lengths[slot] + 1)))
            case 2:
                pages.share(slot, other)
        held = {block for slot in range(3) for block in blocks_of(pages, slot)}
        assert len(held) + len(pages._free) == pages.blocks
        assert held.isdisjoint(pages._free)


def test_what_is_refused_changes_nothing() -> None:
    pages = Pages(slots=2, capacity=40)
    filled(pages, 0, 40)
    with pytest.raises(ContextLengthError, match=r"^41 tokens .* capacity of 40$"):
        pages.extend([1, 0], [30, 1])
    assert pages.lengths.tolist() == [40, 0]
    with pytest.raises(ValueError, match="cannot truncate 40 tokens to 41"):
        pages.truncate(0, 41)
