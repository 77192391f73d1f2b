"""Examples side by side in rows of the context, each numbered so that none sees another."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gptwo.data.examples import Example
from gptwo.data.index import Ids


@dataclass(frozen=True)
class Fitted:
    """Examples of at most ``context`` + 1 ids, and how many had to be made so."""

    examples: list[Example]
    truncated: int
    left_out: int


def fit_to_context(examples: Sequence[Example], context: int, *, cut_into_pieces: bool) -> Fitted:
    """Examples that fit: C positions predict C tokens, so C + 1 ids do.

    Longer ones lose what is behind (``truncated``), or are left out when no token of an answer remains (``left_out``).
    With ``cut_into_pieces``, for plain text, they become pieces that each begin with the last id of the one before, so
    that every token is predicted once and nothing is lost.
    """
    fitted: list[Example] = []
    truncated = left_out = 0
    for example in examples:
        last_start = len(example.ids) - 1 if cut_into_pieces else 1
        parts = [
            Example(example.ids[start : start + context + 1], example.answer[start : start + context + 1])
            for start in range(0, last_start, context)
        ]
        useful = [part for part in parts if part.answer[1:].any()]
        fitted += useful
        if not useful:
            left_out += 1
        elif sum(len(part.ids) - 1 for part in parts) < len(example.ids) - 1:
            truncated += 1
    return Fitted(fitted, truncated, left_out)


class PackedRows:
    """Rows of C positions, each holding whole examples one after the other. ``len`` is their number.

    Best fit, longest first: an example goes into the row with the least space that still holds it. The packing depends
    on the examples alone.
    """

    def __init__(self, examples: Sequence[Example], context: int, *, not_predicted: int) -> None:
        self.context = context
        self._examples = examples
        self._not_predicted = not_predicted
        self._rows = _best_fit([len(example.ids) - 1 for example in examples], context)
        self.predicted: Ids = np.array(
            [sum(int(examples[i].answer[1:].sum()) for i in row) for row in self._rows], dtype=np.int64
        )
        """Tokens of answers in each row."""

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> tuple[Ids, Ids, Ids]:
        """Tokens, targets and documents of these rows, each (rows, C) int64.

        A target that is no part of an answer is ``not_predicted``. Examples are numbered 0, 1, ... in their row; the
        space behind the last is one more document, of which nothing is predicted.
        """
        tokens = np.zeros((len(numbers), self.context), dtype=np.int64)
        targets = np.full_like(tokens, self._not_predicted)
        documents = np.zeros_like(tokens)
        for at, number in enumerate(numbers):
            start = 0
            for document, index in enumerate(self._rows[number]):
                example = self._examples[index]
                end = start + len(example.ids) - 1
                tokens[at, start:end] = example.ids[:-1]
                targets[at, start:end] = np.where(example.answer[1:], example.ids[1:], self._not_predicted)
                documents[at, start:end] = document
                start = end
            documents[at, start:] = len(self._rows[number])
        return tokens, targets, documents


def _best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    spaces: list[int] = []  # those that some row has left, sorted
    rows_with: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect.bisect_left(spaces, lengths[index])
        if at == len(spaces):
            row, space = len(rows), capacity
            rows.append([])
        else:
            space = spaces[at]
            row = rows_with[space].pop()
            if not rows_with[space]:
                del rows_with[space]
                spaces.pop(at)
        rows[row].append(index)
        left = space - lengths[index]
        if left:
            if left not in rows_with:
                bisect.insort(spaces, left)
            rows_with.setdefault(left, []).append(row)
    return rows
