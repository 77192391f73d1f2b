"""What generation needs from whatever runs the model. Those that can stand in ``engines``. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gptwo.config import GPT2Config

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Tokens = NDArray[np.int64]


class Session(Protocol):
    """Slots of a KV pool. Each holds one sequence, of a length of its own, with the keys and values of its tokens.

    The slots named in one call are distinct, and every text has one token at least. Logits are those of the whole
    sequence of their slot, in host memory. A call that raises has changed nothing.
    """

    @property
    def lengths(self) -> Int[np.ndarray, " slots"]:
        """Tokens that each slot holds, 0 for an empty one; the next token of a slot has this position."""

    def prefill(self, slots: Sequence[int], texts: Sequence[Tokens]) -> Float[np.ndarray, "n V"]:
        """Add text i, of any length, to slot ``slots[i]``; the logits that follow the last token of each text.

        A long text may come in several calls. Raises ``ContextLengthError`` past the session's capacity.
        """

    def decode(self, slots: Sequence[int], tokens: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n V"]:
        """Add one token to each of these slots; the logits that follow it. Errors as ``prefill``."""

    def verify(self, slots: Sequence[int], texts: Sequence[Tokens]) -> list[Float[np.ndarray, "T V"]]:
        """As ``prefill``, with the logits that follow every token: T rows of them for a text of T tokens."""

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens of a slot from position ``length`` on, at most what it holds; 0 frees the slot."""

    def copy(self, source: int, target: int) -> None:
        """Slot ``target`` becomes what ``source`` is, whatever it held; each then goes on for itself."""


class Scores(NamedTuple):
    """Of n tokens in a row: log p of each, natural, and whether it was the most probable one (the first of equals)."""

    log_probs: Float[np.ndarray, " n"]
    greedy: Bool[np.ndarray, " n"]


class Engine(Protocol):
    """A loaded model that can be run. Logits are float32; float64 from an engine that computes in float64."""

    @property
    def config(self) -> GPT2Config:
        """The model's shape."""

    @property
    def description(self) -> str:
        """The engine, its device and its dtype, for people: ``"torch on cpu in float32"``."""

    @property
    def batch_invariant(self) -> bool:
        """Whether a token's logits are bitwise the same in any batch, in any chunks and from any slot."""

    def start(self, *, slots: int, capacity: int) -> Session:
        """A session of empty slots; ``capacity`` is the most tokens of one. ``ContextLengthError`` above C."""

    def logits(self, tokens: Int[np.ndarray, " T"]) -> Float[np.ndarray, "T V"]:
        """The logits after every token of one sequence, in host memory. ``ContextLengthError`` past C tokens."""

    def score(self, rows: Sequence[Int[np.ndarray, " T"]], last: Sequence[int]) -> list[Scores]:
        """Of every row, how its last ``last[i]`` tokens follow from those before them; all rows in one pass.

        Rows may have several lengths, 2 to C + 1 tokens (the final one is only predicted); 1 <= last[i] < length.
        What is computed follows from the rows alone: no logits leave the device, and V of them for each of all
        predicted tokens are never held at once. ``ContextLengthError`` past C + 1 tokens.
        """
