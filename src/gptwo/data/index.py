"""index.json: what a prepared folder says about itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gptwo.base.errors import DataError

INDEX_NAME = "index.json"
FORMAT = "gptwo-data"
VERSION = 1
Split = Literal["train", "val"]
Ids = npt.NDArray[np.int64]
SPLITS: tuple[Split, Split] = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One file of raw little-endian token ids; ``sha256`` is that of the whole file, in hexadecimal."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """One split. ``bytes`` counts the UTF-8 bytes of its text, without ``<|endoftext|>``: nats per byte needs it."""

    tokens: int
    documents: int
    bytes: int
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """The tokenizer beside the shards, and for a trained BPE how many of the train split's bytes it learned from."""

    kind: str
    vocab_size: int
    eot_id: int | None
    sha256: str
    trained_on_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class DataIndex:
    """A prepared folder. As index.json (UTF-8, one object)::

        format       "gptwo-data"            version      1
        tokenizer    {kind, vocab_size, eot_id, sha256 (of tokenizer.json), trained_on_bytes (null: not trained here)}
        dtype        "uint16" | "uint32", little-endian
        split_by     "hash" (of each document's first piece) | "position" (one document: its last fraction)
        val_fraction as asked
        splits       {"train": S, "val": S}, S = {tokens, documents, bytes, shards: [{file, tokens, sha256}]}
        skipped      {"binary": n, "hidden": n, "empty": n} files in folders, and documents without text

    ``folder`` is where the index lies and is not written.
    """

    tokenizer: TokenizerInfo
    dtype: Literal["uint16", "uint32"]
    split_by: Literal["hash", "position"]
    val_fraction: float
    splits: dict[Split, SplitInfo]
    skipped: dict[str, int] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """``dtype`` with its byte order, which does not depend on the machine."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def split_notice(self) -> str | None:
        """One line for the user when the validation split is far from the asked share of bytes, else None."""
        asked, sizes = self.val_fraction, {split: info.bytes for split, info in self.splits.items()}
        if not asked:
            return "there is no validation split (val_fraction 0), and `gptwo train` needs one"
        share = sizes["val"] / max(1, sum(sizes.values()))
        if asked / 4 <= share <= min(4 * asked, 1 - (1 - asked) / 4):
            return None
        return (
            f"{share:.1%} of the bytes are for validation where {asked:.1%} was asked: whole documents are split, and "
            "few or very unequal ones cannot be split evenly; one file that holds them all is split by position"
        )

    def to_json(self) -> str:
        """The content of index.json."""
        content = dataclasses.asdict(self)
        del content["folder"]
        return json.dumps({"format": FORMAT, "version": VERSION, **content}, indent=2) + "\n"


def dtype_for(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The smaller of the two types that holds every id below ``vocab_size``."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def load_index(folder: Path) -> DataIndex:
    """Read ``folder``/index.json. ``DataError`` when it is missing, of another format or version, or incomplete."""
    file = Path(folder) / INDEX_NAME
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"there is no {file}; expected a folder that `gptwo prepare` made") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}; prepare the data again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{file} is not the index of prepared data; expected format {FORMAT!r}")
    if content.get("version") != VERSION:
        raise DataError(
            f"{file} has version {content.get('version')!r}; this gptwo reads version {VERSION}: prepare again"
        )
    try:
        index = DataIndex(
            tokenizer=TokenizerInfo(**content["tokenizer"]),
            dtype=content["dtype"],
            split_by=content["split_by"],
            val_fraction=content["val_fraction"],
            splits={split: _split_info(content["splits"][split]) for split in SPLITS},
            skipped=content["skipped"],
            folder=Path(folder),
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} is incomplete ({error}); prepare the data again") from error
    if index.dtype not in ("uint16", "uint32"):
        raise DataError(f"{file} has dtype {index.dtype!r}; expected uint16 or uint32")
    return index


def _split_info(content: dict[str, Any]) -> SplitInfo:
    shards = tuple(ShardInfo(**shard) for shard in content["shards"])
    return SplitInfo(**{**content, "shards": shards})


def is_prepared(folder: Path) -> bool:
    """True when ``folder`` holds an index of ours, of whatever version."""
    try:
        content = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def shard_names(split: Split) -> Iterator[str]:
    """train-00000.bin, train-00001.bin, ..."""
    number = 0
    while True:
        yield f"{split}-{number:05d}.bin"
        number += 1
