"""An engine without a model: whoever writes the test says which token follows, so that the loop can be tested alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gptwo.base.errors import ContextLengthError
from gptwo.config import GPT2Config
from gptwo.infer.sampler import NumpySampler
from gptwo.kernels.top import Top

# The chosen token's logit above all others: e⁻⁶⁰ of the probability is left for them.
CERTAIN = 60.0


class ScriptedEngine:
    """``follow(tokens of a slot) -> next token``; ``passes`` has the tokens that each slot of each call was given."""

    description = "a script"
    batch_invariant = True

    def __init__(
        self, follow: Callable[[list[int]], int], *, vocab_size: int = 257, context: int = 1000
    ) -> None:
        self.config = GPT2Config(n_layer=1, n_head=1, n_embd=1, context=context, vocab_size=vocab_size)
        self.follow = follow
        self.passes: list[list[int]] = []

    def start(self, *, slots: int, capacity: int, pool: int | None = None) -> ScriptedSession:
        if capacity > self.config.context:
            raise ContextLengthError(f"{capacity} tokens are more than {self.config.context}")
        return ScriptedSession(self, slots, capacity, pool)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        return np.stack([self.after(tokens[: end + 1].tolist()) for end in range(len(tokens))])

    def after(self, tokens: list[int]) -> np.ndarray:
        logits = np.zeros(self.config.vocab_size, dtype=np.float32)
        logits[self.follow(tokens)] = CERTAIN
        return logits


class ScriptedSession:
    def __init__(self, engine: ScriptedEngine, slots: int, capacity: int, pool: int | None = None) -> None:
        self._engine = engine
        self._capacity = capacity
        self.pool = slots * capacity if pool is None else pool
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self.sampler = NumpySampler()

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(held) for held in self._held])

    @property
    def use(self) -> float:
        return sum(self.lengths) / self.pool

    def prefill(self, slots: Sequence[int], texts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(self.read(slots, texts, [1] * len(texts)))

    def decode(self, slots: Sequence[int], tokens: np.ndarray) -> np.ndarray:
        return self.prefill(slots, tokens[:, None])

    def read(
        self, slots: Sequence[int], texts: Sequence[np.ndarray], last: Sequence[int]
    ) -> list[np.ndarray]:
        self._add(slots, texts)
        return [
            np.array(
                [self._engine.after(held[: len(held) - behind]) for behind in reversed(range(n))],
                dtype=np.float32,
            ).reshape(n, self._engine.config.vocab_size)
            for held, n in zip((self._held[slot] for slot in slots), last, strict=True)
        ]

    def read_top(
        self, slots: Sequence[int], texts: Sequence[np.ndarray], last: Sequence[int], k: int
    ) -> list[Top]:
        return [self.sampler.top(logits, k) for logits in self.read(slots, texts, last)]

    def fits(self, slots: Sequence[int], counts: Sequence[int]) -> bool:
        return sum(self.lengths) + sum(counts) <= self.pool

    def reuse(self, slot: int, tokens: np.ndarray) -> int:
        return 0

    def _add(self, slots: Sequence[int], texts: Sequence[np.ndarray]) -> None:
        assert len(set(slots)) == len(slots) == len(texts) > 0
        assert all(len(text) for text in texts)
        longest = max(len(self._held[slot]) + len(text) for slot, text in zip(slots, texts, strict=True))
        if longest > self._capacity:
            raise ContextLengthError(f"{longest} tokens are more than the session's {self._capacity}")
        assert self.fits(slots, [len(text) for text in texts])
        self._engine.passes.append([len(text) for text in texts])
        for slot, text in zip(slots, texts, strict=True):
            self._held[slot] += text.tolist()

    def truncate(self, slot: int, length: int) -> None:
        assert 0 <= length <= len(self._held[slot])
        del self._held[slot][length:]

    def copy(self, source: int, target: int) -> None:
        self._held[target] = list(self._held[source])


def script(prompt_tokens: int, following: Sequence[int]) -> Callable[[list[int]], int]:
    """After the prompt, these tokens in order."""
    return lambda tokens: following[len(tokens) - prompt_tokens]
