"""What a pass of the model says of the tokens that may follow: no more of the logits than those who wait need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gptwo.infer.engine import Session, Tokens
from gptwo.kernels.top import Top

if TYPE_CHECKING:
    from jaxtyping import Float

    from gptwo.infer.row import Row


class Following(NamedTuple):
    """Of T places of a text the largest logits, and all of them where they were wanted, by this row or another."""

    top: Top
    logits_TV: Float[np.ndarray, "T V"] | None

    def last(self, count: int) -> Following:
        """Of the last ``count`` places."""
        first = len(self.top.ids_nk) - count
        logits_TV = self.logits_TV[first:] if self.logits_TV is not None else None
        return Following(Top(*(array[first:] for array in self.top)), logits_TV)


def read_following(
    session: Session,
    slots: Sequence[int],
    texts: Sequence[Tokens],
    last: Sequence[int],
    takers: Sequence[Sequence[Row]],
) -> list[Following]:
    """``Session.read``, of text i for the rows ``takers[i]``.

    All logits are written in one pass where a row needs them; else only the largest, and the places of a text whose
    next token these do not decide, as equal logits stand at the border, are read once more. What a row gets out of it
    is the same.
    """
    waiting = [row for rows, n in zip(takers, last, strict=True) for row in rows if n > 0]
    k = max((row.largest for row in waiting), default=1)

    def whole(logits: Sequence[Float[np.ndarray, "T V"]]) -> list[Following]:
        return [Following(session.sampler.top(logits_TV, k), logits_TV) for logits_TV in logits]

    if any(row.needs_all for row in waiting):
        return whole(session.read(slots, texts, last))
    following = [Following(top, None) for top in session.read_top(slots, texts, last, k)]
    for i, rows in enumerate(takers):
        if last[i] > 0 and not all(row.decided_by(following[i].top) for row in rows):
            session.truncate(slots[i], int(session.lengths[slots[i]]) - last[i])
            (following[i],) = whole(session.read([slots[i]], [texts[i][-last[i] :]], [last[i]]))
    return following
