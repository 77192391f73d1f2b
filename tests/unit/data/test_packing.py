"""Packing: every answer is predicted once, at its own place, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo.data.examples import Example
from gptwo.data.packing import PackedRows, fit_to_context

NONE = -100


def example(ids: list[int], given_ids: int) -> Example:
    return Example(np.array(ids, dtype=np.int32), np.arange(len(ids)) >= given_ids)


@st.composite
def many(draw: st.DrawFn) -> list[Example]:
    lengths = draw(st.lists(st.integers(2, 9), min_size=1, max_size=12))
    start = 1
    examples = []
    for length in lengths:
        examples.append(example(list(range(start, start + length)), draw(st.integers(0, length - 1))))
        start += length
    return examples


@given(many())
def test_every_answer_is_predicted_once_from_its_own_example(examples: list[Example]) -> None:
    rows = PackedRows(examples, 8, not_predicted=NONE)
    tokens, targets, documents = rows.rows(range(len(rows)))
    assert tokens.shape == targets.shape == documents.shape == (len(rows), 8)
    # Ids differ throughout, so what is predicted from what can be read off.
    seen = [(int(t), int(y)) for t, y in zip(tokens.flat, targets.flat, strict=True) if y != NONE]
    expected = [
        (int(e.ids[i]), int(e.ids[i + 1])) for e in examples for i in range(len(e.ids) - 1) if e.answer[i + 1]
    ]
    assert sorted(seen) == sorted(expected)
    assert rows.predicted.tolist() == (targets != NONE).sum(axis=1).tolist()
    owner = {int(id_): number for number, e in enumerate(examples) for id_ in e.ids[:-1]}
    for row_tokens, row_targets, row_documents in zip(tokens, targets, documents, strict=True):
        # One run of positions for each document, 0, 1, ..., and the space behind is another.
        assert (np.diff(row_documents) >= 0).all()
        for document in np.unique(row_documents):
            inside = row_documents == document
            assert len({owner.get(int(t), -1) for t in row_tokens[inside]}) == 1
            if row_tokens[inside][0] == 0:
                assert (row_targets[inside] == NONE).all()
                assert document == row_documents.max()


def test_the_packing_is_tight() -> None:
    lengths = [5, 3, 4, 4, 2, 6, 1, 7, 8]  # fills five rows of 8
    examples = [example(list(range(1, n + 2)), 0) for n in lengths]
    assert len(PackedRows(examples, 8, not_predicted=NONE)) == 5


def test_a_thousand_short_ones_leave_little_room() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, size=3000)
    rows = PackedRows([example(list(range(n + 1)), 0) for n in lengths], 256, not_predicted=NONE)
    assert lengths.sum() / (256 * len(rows)) > 0.99


@pytest.mark.parametrize(
    ("ids", "given_ids", "kept", "truncated", "left_out"),
    [
        (5, 2, [5], 0, 0),  # C + 1 ids fit
        (6, 2, [5], 1, 0),
        (9, 4, [5], 1, 0),  # one token of the answer remains
        (9, 5, [], 0, 1),
    ],
)
def test_what_is_too_long_is_cut_or_left_out(
    ids: int, given_ids: int, kept: list[int], truncated: int, left_out: int
) -> None:
    fitted = fit_to_context([example(list(range(ids)), given_ids)], 4, cut_into_pieces=False)
    assert [len(e.ids) for e in fitted.examples] == kept
    assert (fitted.truncated, fitted.left_out) == (truncated, left_out)


@pytest.mark.parametrize("length", [2, 4, 5, 6, 8, 9, 10, 13])
def test_text_is_cut_into_pieces_that_lose_nothing(length: int) -> None:
    fitted = fit_to_context([example(list(range(length)), 1)], 4, cut_into_pieces=True)
    predicted = [int(id_) for e in fitted.examples for id_ in e.ids[1:][e.answer[1:]]]
    assert predicted == list(range(1, length))
    assert all(2 <= len(e.ids) <= 5 for e in fitted.examples)
    assert (fitted.truncated, fitted.left_out) == (0, 0)
