"""An engine without a model: whoever writes the test says which token follows, so that the loop can be tested alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gptwo.config import GPT2Config

# The chosen token's logit above all others: e⁻⁶⁰ of the probability is left for them.
CERTAIN = 60.0


class ScriptedEngine:
    """``follow(tokens of a row) -> next token``; ``batches`` records the rows of every call."""

    description = "a script"

    def __init__(
        self, follow: Callable[[list[int]], int], *, vocab_size: int = 257, context: int = 1000
    ) -> None:
        self.config = GPT2Config(n_layer=1, n_head=1, n_embd=1, context=context, vocab_size=vocab_size)
        self.follow = follow
        self.batches: list[int] = []

    def start(self, *, rows: int, capacity: int) -> ScriptedSession:
        assert capacity <= self.config.context
        return ScriptedSession(self, rows)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        return np.stack([self.after(tokens[: end + 1].tolist()) for end in range(len(tokens))])

    def after(self, tokens: list[int]) -> np.ndarray:
        logits = np.zeros(self.config.vocab_size, dtype=np.float32)
        logits[self.follow(tokens)] = CERTAIN
        return logits


class ScriptedSession:
    def __init__(self, engine: ScriptedEngine, rows: int) -> None:
        self._engine = engine
        self._rows: list[list[int]] = [[] for _ in range(rows)]

    @property
    def length(self) -> int:
        return len(self._rows[0])

    def prefill(self, tokens: np.ndarray) -> np.ndarray:
        for row, new in zip(self._rows, tokens.tolist(), strict=True):
            row.extend(new)
        assert self.length <= self._engine.config.context
        self._engine.batches.append(len(self._rows))
        return np.stack([self._engine.after(row) for row in self._rows])

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return self.prefill(tokens[:, None])

    def select(self, rows: Sequence[int]) -> None:
        self._rows = [list(self._rows[row]) for row in rows]


def script(prompt_tokens: int, following: Sequence[int]) -> Callable[[list[int]], int]:
    """After the prompt, these tokens in order."""
    return lambda tokens: following[len(tokens) - prompt_tokens]
