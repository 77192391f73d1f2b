"""What generation needs from whatever runs the model. Those that can stand in ``engines``. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gptwo.config import GPT2Config
from gptwo.infer.policy import SamplingPolicy
from gptwo.kernels.top import Top

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Tokens = NDArray[np.int64]


class Sampler(Protocol):
    """What is made of rows of logits that are in host memory. Each result depends on its own row alone."""

    def top(self, logits: Float[np.ndarray, "n V"], k: int) -> Top:
        """The k largest logits of each row and log Σ exp z: what ``Session.read_top`` gives, bit by bit."""

    def choose(
        self,
        logits: Float[np.ndarray, " V"],
        tokens: Tokens,
        policy: SamplingPolicy,
        *,
        prompt_tokens: int,
        seed: int,
        step: int,
    ) -> int:
        """``sampling.choose``; another token at most where rounding decides.

        That is where u is within 1e-9 of the border between two, or what top-p or min-p compares is equal but for the
        last bits of a double.
        """


class Session(Protocol):
    """Slots of a KV pool. Each holds one sequence, of a length of its own, with the keys and values of its tokens.

    The slots named in one call are distinct, and every text has one token at least. Logits are those of the whole
    sequence of their slot, in host memory. A call that raises has changed nothing.
    """

    @property
    def lengths(self) -> Int[np.ndarray, " slots"]:
        """Tokens that each slot holds, 0 for an empty one; the next token of a slot has this position."""

    @property
    def pool(self) -> int:
        """Tokens whose keys and values the memory holds, of all slots together."""

    @property
    def use(self) -> float:
        """The share of the pool's memory that slots hold, 0 to 1; what is only kept for ``reuse`` is free."""

    def read(
        self, slots: Sequence[int], texts: Sequence[Tokens], last: Sequence[int]
    ) -> list[Float[np.ndarray, "n V"]]:
        """Add text i to slot ``slots[i]``, all in one pass; the logits that follow each of its last ``last[i]`` tokens.

        0 <= last[i] <= len(texts[i]); a long text may come in several calls. Raises ``ContextLengthError`` past the
        capacity of a slot, and of the pool: ``fits`` says before whether there is room.
        """

    def read_top(
        self, slots: Sequence[int], texts: Sequence[Tokens], last: Sequence[int], k: int
    ) -> list[Top]:
        """``read`` with no more of each row of logits than its k largest (all V of a shorter one) and log Σ exp z."""

    @property
    def sampler(self) -> Sampler:
        """What samples from the logits of ``read``."""

    def prefill(self, slots: Sequence[int], texts: Sequence[Tokens]) -> Float[np.ndarray, "n V"]:
        """``read`` with the logits that follow the last token of each text."""

    def decode(self, slots: Sequence[int], tokens: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n V"]:
        """``read`` of one token for each of these slots; the logits that follow it."""

    def fits(self, slots: Sequence[int], counts: Sequence[int]) -> bool:
        """Whether the pool has memory for so many more tokens in each of these slots at once."""

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens of a slot from position ``length`` on, at most what it holds; 0 frees the slot."""

    def copy(self, source: int, target: int) -> None:
        """Slot ``target`` becomes what ``source`` is, whatever it held; each then goes on for itself."""

    def reuse(self, slot: int, tokens: Tokens) -> int:
        """Fill an empty slot with as many of ``tokens`` as the pool still has keys and values of, but the last one.

        How many that are: those of texts that began alike, in slots or freed since; 0 from an engine that keeps none.
        """


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

    @property
    def paged(self) -> bool:
        """Whether a session's slots share its memory as they need it; else each has its whole capacity to itself."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Of the keys and values of one token in a session's memory, in all layers together."""

    def free_memory_bytes(self) -> int:
        """What is left of the memory that sessions take theirs from."""

    def start(self, *, slots: int, capacity: int, pool: int | None = None) -> Session:
        """A session of empty slots; ``capacity`` is the most tokens of one. ``ContextLengthError`` above C.

        ``pool`` is how many tokens the memory holds, at least one slot's; None for all that the slots can hold.
        """

    def logits(self, tokens: Int[np.ndarray, " T"]) -> Float[np.ndarray, "T V"]:
        """The logits after every token of one sequence, in host memory. ``ContextLengthError`` past C tokens."""

    def score(self, rows: Sequence[Int[np.ndarray, " T"]], last: Sequence[int]) -> list[Scores]:
        """Of every row, how its last ``last[i]`` tokens follow from those before them; all rows in one pass.

        Rows may have several lengths, 2 to C + 1 tokens (the final one is only predicted); 1 <= last[i] < length.
        What is computed follows from the rows alone: no logits leave the device, and V of them for each of all
        predicted tokens are never held at once. ``ContextLengthError`` past C + 1 tokens.
        """
