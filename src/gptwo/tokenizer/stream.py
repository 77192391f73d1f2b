"""Text as it becomes certain, token by token: never half a character."""

from __future__ import annotations

import codecs

from gptwo.tokenizer.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"


class TextStream:
    """Decode ids one at a time: the pieces from ``push`` and ``finish``, joined, equal ``tokenizer.decode(ids)``.

    A character split over tokens is held back until it is whole; bytes that can no longer become a character come
    out as U+FFFD. For a tokenizer of another family, whose decoder may rewrite earlier text (WordPiece's spaces),
    text already given out stays as it was.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace") if tokenizer.decodes_by_bytes else None
        self._ids: list[int] = []
        self._given = ""

    def push(self, token_id: int) -> str:
        """Add one token; return the text that is final now, possibly "". ``TokenizerError`` for a bad id."""
        token = self._tokenizer.token_bytes(token_id)
        if self._utf8 is not None:
            skipped = self._skip_special and self._tokenizer.is_special(token_id)
            return "" if skipped else self._utf8.decode(token)
        self._ids.append(token_id)
        if self._tokenizer.is_byte(token_id):
            # SentencePiece reads a run of byte tokens together: what it makes of the first depends on the last.
            return ""
        text = self._tokenizer.decode(self._ids, skip_special=self._skip_special)
        # A trailing U+FFFD may be the start of a character whose other bytes are still to come.
        return "" if text.endswith(_REPLACEMENT) else self._give(text)

    def finish(self) -> str:
        """The rest: bytes that never became a character, as U+FFFD. The stream is then empty and may be used again."""
        if self._utf8 is not None:
            rest = self._utf8.decode(b"", final=True)
            self._utf8.reset()
            return rest
        rest = self._give(self._tokenizer.decode(self._ids, skip_special=self._skip_special))
        self._ids, self._given = [], ""
        return rest

    def _give(self, text: str) -> str:
        new = text[len(self._given) :]
        self._given += new
        return new
