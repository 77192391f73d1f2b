from __future__ import annotations

import itertools

import numpy as np
import pytest

from gptwo.base.errors import ContextLengthError
from gptwo.infer.paging import Pages

FRESH = itertools.count(1)


def filled(pages: Pages, slot: int, count: int, *, token: int | None = None) -> list[tuple[int, int]]:
    """``count`` more tokens, by default such as no other slot has, and the copies that they took."""
    copies = pages.extend([slot], [count])
    pages.advance([slot], [np.full(count, next(FRESH) if token is None else token)])
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


def check_blocks(pages: Pages, slots: int) -> None:
    """Every block is held by as many slots as it says, kept, or free, and only one of these."""
    held = [block for slot in range(slots) for block in blocks_of(pages, slot)]
    for block in range(pages.blocks):
        states = [block in held, block in pages._kept, block in pages._free]
        assert states.count(True) == 1, block
        assert pages._holders[block] == held.count(block)
    assert set(pages._kept) <= set(pages._names)
    assert {pages._known[key]: key for _, key in pages._names.values()} == {
        block: key for block, (_, key) in pages._names.items()
    }
    assert pages.use == pytest.approx(len(set(held)) / pages.blocks)


@pytest.mark.parametrize("pool", [None, 150])
def test_whatever_is_shared_cut_and_reused_every_block_holds_what_its_slots_say(pool: int | None) -> None:
    """The content of blocks is written down as a kernel would write it, and compared with each slot's tokens."""
    slots, capacity = 3, 100
    pages = Pages(slots=slots, capacity=capacity, pool=pool)
    content = np.zeros((pages.blocks, 32), dtype=np.int64)
    texts: list[list[int]] = [[] for _ in range(slots)]
    choose = np.random.default_rng(0)
    reused = refused = 0
    for _ in range(4000):
        slot, other = (int(x) for x in choose.choice(slots, 2, replace=False))
        match choose.integers(4):
            case 0:
                # Of few tokens, so that texts begin alike.
                text = choose.integers(0, 2, 1).repeat(choose.integers(0, capacity + 1 - len(texts[slot])))
                if not pages.fit([slot], [len(text)]):
                    refused += 1
                    with pytest.raises(ContextLengthError, match="give the pool more memory"):
                        pages.extend([slot], [len(text)])
                    continue
                for source, target in pages.extend([slot], [len(text)]):
                    content[target] = content[source]
                for position, token in enumerate(text, start=len(texts[slot])):
                    content[pages.table(slot)[position // 32], position % 32] = token
                pages.advance([slot], [text])
                texts[slot] += text.tolist()
            case 1:
                length = int(choose.integers(0, len(texts[slot]) + 1))
                pages.truncate(slot, length)
                del texts[slot][length:]
            case 2:
                pages.share(slot, other)
                texts[other] = list(texts[slot])
            case 3:
                pages.truncate(slot, 0)
                text = np.array([choose.integers(2)] * choose.integers(1, capacity))
                count = pages.reuse(slot, text)
                assert count < len(text)
                texts[slot] = text[:count].tolist()
                reused += count > 0
        for slot, text in enumerate(texts):
            held = content[blocks_of(pages, slot)].ravel()[: len(text)] if text else np.empty(0)
            assert held.tolist() == text
        check_blocks(pages, slots)
    assert reused > 100
    assert (refused > 0) == (pool is not None)


def test_full_blocks_of_texts_that_have_gone_are_found_again() -> None:
    pages = Pages(slots=2, capacity=160)
    filled(pages, 0, 100, token=7)
    blocks = blocks_of(pages, 0)
    pages.truncate(0, 0)
    assert pages.use == 0
    text = np.full(100, 7)
    assert pages.reuse(1, text) == 96
    assert blocks_of(pages, 1) == blocks[:3]
    assert pages.use == pytest.approx(3 / 10)
    # The last token is always left, and what follows another beginning is another text.
    for other, count in ((text[:96], 64), (text[:31], 0), (np.append(8, text), 0)):
        assert pages.reuse(0, other) == count
        pages.truncate(0, 0)
    with pytest.raises(ValueError, match="slot 1 holds 96 tokens; expected an empty one"):
        pages.reuse(1, text)


def test_two_texts_that_become_alike_share_their_blocks() -> None:
    pages = Pages(slots=2, capacity=96)
    for slot in (0, 1):
        filled(pages, slot, 70, token=7)
    assert blocks_of(pages, 0)[:2] == blocks_of(pages, 1)[:2]
    assert blocks_of(pages, 0)[2] != blocks_of(pages, 1)[2]
    check_blocks(pages, 2)


def test_what_was_let_go_longest_ago_is_given_up_first_and_an_end_before_its_beginning() -> None:
    pages = Pages(slots=2, capacity=96, pool=192)
    for token in (1, 2):
        filled(pages, 0, 96, token=token)
        pages.truncate(0, 0)
    filled(pages, 1, 64, token=3)  # takes the last two blocks of the first text
    pages.truncate(1, 0)
    for token, count in ((1, 32), (2, 64), (3, 64)):
        assert pages.reuse(0, np.full(96, token)) == count
        pages.truncate(0, 0)


def test_the_pool_is_never_less_than_one_slot() -> None:
    assert Pages(slots=4, capacity=100, pool=1).blocks == 4
    assert Pages(slots=4, capacity=100, pool=10_000).blocks == 16


def test_what_is_refused_changes_nothing() -> None:
    pages = Pages(slots=2, capacity=40)
    filled(pages, 0, 40)
    with pytest.raises(ContextLengthError, match=r"^41 tokens .* capacity of 40$"):
        pages.extend([1, 0], [30, 1])
    assert pages.lengths.tolist() == [40, 0]
    with pytest.raises(ValueError, match="cannot truncate 40 tokens to 41"):
        pages.truncate(0, 41)
