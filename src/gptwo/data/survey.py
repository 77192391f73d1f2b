"""The first pass over the text: is it all readable, how much is there, and what a tokenizer may learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from gptwo.base.errors import DataError
from gptwo.data.pieces import CAP_CHARACTERS, PIECE_CHARACTERS, pieces
from gptwo.data.sources import Document
from gptwo.data.split import SplitRule, text_hash

# What a BPE learns from at most: so many bytes of text, and so many bytes of distinct words in it. The trainer takes
# about 100 bytes for each byte of a distinct word; ordinary text reaches the first limit before the second.
SAMPLE_BYTES = 24 << 20
SAMPLE_WORD_BYTES = 5 << 19
# Pieces handled at once: enough to keep every core busy encoding, small beside the ~100 bytes that a token takes there.
BATCH_BYTES = 1 << 20


@dataclass(frozen=True)
class Piece:
    """A piece of a document: ``number`` of the document among the non-empty ones, ``start`` in characters."""

    number: int
    start: int
    text: str
    first_hash: int
    bytes: int


def numbered_pieces(
    documents: Iterable[Document],
    *,
    piece_characters: int = PIECE_CHARACTERS,
    on_empty: Callable[[], None] = lambda: None,
) -> Iterator[Piece]:
    """The pieces of all documents in order, each with the hash of its document's first; empty documents are left out.

    ``DataError`` naming the document for a lone surrogate (JSON can spell one).
    """
    number = 0
    for document in documents:
        start = first_hash = 0
        cap = max(CAP_CHARACTERS, piece_characters)
        for text in pieces(document.blocks, piece_characters=piece_characters, cap_characters=cap):
            try:
                size = len(text.encode("utf-8"))
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{document.name}: character {start + error.start} is the lone surrogate "
                    f"U+{ord(text[error.start]):04X}; expected text that can be written as UTF-8"
                ) from None
            if start == 0:
                first_hash = text_hash(text)
            yield Piece(number, start, text, first_hash, size)
            start += len(text)
        if start:
            number += 1
        else:
            on_empty()


@dataclass
class Sample:
    """Pieces chosen by hash, at most ``limit_bytes`` together: the same texts, the same sample, in whatever order.

    A piece is in when its hash is under a threshold that starts at the top and is halved whenever the sample is full.
    """

    limit_bytes: int = SAMPLE_BYTES
    _threshold: int = 1 << 64
    _bytes: int = 0
    _pieces: list[tuple[int, Piece]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Keep the piece if its hash is low enough."""
        key = text_hash(piece.text)
        if key >= self._threshold:
            return
        self._pieces.append((key, piece))
        self._bytes += piece.bytes
        while self._bytes > self.limit_bytes and len(self._pieces) > 1:
            self._threshold //= 2
            self._pieces = [(key, kept) for key, kept in self._pieces if key < self._threshold]
            self._bytes = sum(kept.bytes for _, kept in self._pieces)

    def training_texts(self, rule: SplitRule, *, word_bytes: int = SAMPLE_WORD_BYTES) -> list[str]:
        """What of the sample is for training, by rising hash, until its distinct words take ``word_bytes``."""
        texts: list[str] = []
        words: set[str] = set()
        room = word_bytes
        for _, piece in sorted(self._pieces, key=lambda kept: kept[0]):
            for split, text in rule.route(piece.number, piece.first_hash, piece.start, piece.text):
                if split != "train":
                    continue
                # A pre-token lies within one of these words, so their bytes bound those of the trainer's words.
                new = set(text.split()) - words
                room -= sum(len(word.encode("utf-8")) for word in new)
                if room < 0 and texts:
                    return texts
                words |= new
                texts.append(text)
        return texts


@dataclass
class Survey:
    """What the first pass counted. ``lowest``, ``highest``: (hash of the first piece, number) of a document."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    empty_documents: int = 0
    lowest: tuple[int, int] = (1 << 64, -1)
    highest: tuple[int, int] = (-1, -1)
    alphabet: set[str] = field(default_factory=set)

    def count(self, piece: Piece) -> None:
        """Add one piece."""
        if piece.start == 0:
            self.documents += 1
            self.lowest = min(self.lowest, (piece.first_hash, piece.number))
            self.highest = max(self.highest, (piece.first_hash, piece.number))
        self.characters += len(piece.text)
        self.bytes += piece.bytes

    def count_empty(self) -> None:
        """Add one document without text."""
        self.empty_documents += 1


def batches(stream: Iterable[Piece], batch_bytes: int = BATCH_BYTES) -> Iterator[list[Piece]]:
    """Runs of pieces of ``batch_bytes`` or just over."""
    batch: list[Piece] = []
    size = 0
    for piece in stream:
        batch.append(piece)
        size += piece.bytes
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
