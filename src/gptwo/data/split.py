"""Which text is for training and which for validation, fixed by the text itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gptwo.base.errors import DataError
from gptwo.data.index import Split


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b of the UTF-8 bytes: the same on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """Decides the split of every character.

    Two documents or more, ``by="hash"``: a document is validation when the hash of its first piece (its first 16,384
    characters or fewer, see `pieces`) falls in the lowest ``val_fraction`` of all hashes. Adding files moves none of
    the old ones, and documents that begin alike stay together. Should chance put every document on one side, the one
    with the lowest hash validates (or the one with the highest trains): ``only_val`` (``only_train``), by its number.

    One document, ``by="position"``: characters from ⌊characters · (1 − val_fraction)⌋ on validate.
    """

    by: Literal["hash", "position"]
    val_fraction: float
    boundary: int = 0
    only_val: int | None = None
    only_train: int | None = None

    def of_document(self, number: int, first_piece_hash: int) -> Split:
        """The split of document ``number`` (0, 1, ...) by its hash; for ``by="hash"``."""
        if self.only_val is not None:
            return "val" if number == self.only_val else "train"
        if self.only_train is not None:
            return "train" if number == self.only_train else "val"
        return "val" if first_piece_hash < self.val_fraction * 2.0**64 else "train"

    def route(
        self, number: int, first_piece_hash: int, start: int, piece: str
    ) -> Iterator[tuple[Split, str]]:
        """Where a piece goes that begins at character ``start`` of its document: cut in two at the boundary."""
        if self.by == "hash":
            yield self.of_document(number, first_piece_hash), piece
            return
        cut = min(max(self.boundary - start, 0), len(piece))
        if cut:
            yield "train", piece[:cut]
        if cut < len(piece):
            yield "val", piece[cut:]


def decide_split(
    *, documents: int, characters: int, val_fraction: float, lowest: tuple[int, int], highest: tuple[int, int]
) -> SplitRule:
    """The rule for ``documents`` texts of ``characters`` together; lowest, highest: (hash, number) of a document."""
    if documents == 1:
        boundary = int(characters * (1 - val_fraction))
        if boundary == 0 or (val_fraction > 0 and boundary == characters):
            raise DataError(
                f"the one document has {characters} characters; with val_fraction={val_fraction} that leaves a split "
                "empty: give more text"
            )
        return SplitRule(by="position", val_fraction=val_fraction, boundary=boundary)
    rule = SplitRule(by="hash", val_fraction=val_fraction)
    if val_fraction == 0:
        return rule
    if rule.of_document(*reversed(lowest)) == "train":
        return SplitRule(by="hash", val_fraction=val_fraction, only_val=lowest[1])
    if rule.of_document(*reversed(highest)) == "val":
        return SplitRule(by="hash", val_fraction=val_fraction, only_train=highest[1])
    return rule
