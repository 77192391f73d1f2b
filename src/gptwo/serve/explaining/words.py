"""Tokens as the page shows them: id, text and bytes."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from gptwo.tokenizer.tokenizer import Tokenizer


class Words:
    """What an id stands for. Rows that an embedding has beyond the vocabulary stand for nothing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known = lru_cache(maxsize=65_536)(self._look_up)

    @property
    def count(self) -> int:
        """Ids from here on stand for nothing."""
        return self._tokenizer.vocab_size

    def entry(self, token: int) -> dict[str, Any]:
        """{id, text, bytes}: bytes in hexadecimal; in the text, what is no UTF-8 is U+FFFD."""
        text, content = self._known(token)
        return {"id": token, "text": text, "bytes": content}

    def top(
        self, ids: np.ndarray[Any, Any], probabilities: np.ndarray[Any, Any]
    ) -> list[list[dict[str, Any]]]:
        """Of each row its tokens with their p."""
        return [
            [{**self.entry(token), "p": p} for token, p in zip(row, ps, strict=True)]
            for row, ps in zip(ids.tolist(), probabilities.tolist(), strict=True)
        ]

    def text(self, tokens: list[int]) -> str:
        """Of tokens together."""
        return self._tokenizer.decode([token for token in tokens if token < self._tokenizer.vocab_size])

    def _look_up(self, token: int) -> tuple[str, str]:
        if token >= self._tokenizer.vocab_size:
            return "", ""
        content = self._tokenizer.token_bytes(token)
        return content.decode("utf-8", "replace"), content.hex()
