"""Explanations that are kept for whoever looks at a part of one, within so many bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptwo.explanation.explanation import Explanation


@dataclass(frozen=True, eq=False)
class Made:
    """An explanation, and what its request was answered with."""

    id: str
    explanation: Explanation
    reply: dict[str, Any]


class KeptExplanations:
    """The explanations used last, of ``most_bytes`` together; the newest one stays however large it is."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._made: OrderedDict[str, Made] = OrderedDict()

    def __len__(self) -> int:
        return len(self._made)

    def get(self, made_id: str) -> Made | None:
        """The explanation of that id, used now; None when it is not kept."""
        found = self._made.get(made_id)
        if found is not None:
            self._made.move_to_end(made_id)
        return found

    def add(self, made: Made) -> None:
        self._made[made.id] = made
        self._made.move_to_end(made.id)
        while len(self._made) > 1 and self.bytes > self._most_bytes:
            self._made.popitem(last=False)

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(made.explanation.nbytes for made in self._made.values())
