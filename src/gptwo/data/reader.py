"""Reading prepared tokens: memory-mapped, and nothing altered goes unseen."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptwo.base.errors import DataError
from gptwo.data.index import DataIndex, Ids, ShardInfo, Split, load_index
from gptwo.tokenizer import Tokenizer

_HASH_BLOCK_BYTES = 1 << 20
_DECODE_TOKENS = 1 << 16
# Hashing gigabytes takes seconds, and one process may open the same split for training and for evaluation.
_verified: set[tuple[str, int, int, str]] = set()


class TokenData:
    """One split of a prepared folder as one long row of token ids, across its shards.

    ``index`` the folder's index · ``tokens`` N · ``bytes`` of text · ``vocab_size`` V.
    """

    def __init__(self, index: DataIndex, split: Split, shards: list[npt.NDArray[Any]]) -> None:
        self.index = index
        self.split = split
        self.tokens: int = index.splits[split].tokens
        self.bytes: int = index.splits[split].bytes
        self.vocab_size: int = index.tokenizer.vocab_size
        self._shards = shards
        self._starts = [0, *itertools.accumulate(len(shard) for shard in shards)]

    @classmethod
    def open(cls, folder: Path, split: Split, *, verify: bool = True) -> TokenData:
        """Map the shards of ``split``. Sizes are always checked; SHA-256 with ``verify`` (once per file and process).

        Raises ``DataError`` naming a shard that is missing, truncated or altered; also for an empty split.
        """
        index = load_index(Path(folder))
        info = index.splits[split]
        if not info.tokens:
            raise DataError(f"{folder} has no {split} tokens; prepare it with another val_fraction")
        if sum(shard.tokens for shard in info.shards) != info.tokens:
            raise DataError(
                f"{folder}: the {split} shards do not add up to {info.tokens} tokens; prepare again"
            )
        return cls(index, split, [_map_shard(index, shard, verify=verify) for shard in info.shards])

    def read(self, start: int, count: int) -> Ids:
        """Tokens ``start`` .. ``start + count``, int64. ``DataError`` out of range or for a token >= V."""
        row: Ids = self.windows(np.array([start]), count)[0]
        return row

    def windows(self, starts: npt.ArrayLike, count: int) -> Ids:
        """``count`` tokens from each of ``starts``, shape (len(starts), count), int64; errors as in ``read``."""
        rows = np.asarray(starts, dtype=np.int64)
        if count < 0 or (rows.size and (rows.min() < 0 or rows.max() + count > self.tokens)):
            raise DataError(f"tokens {rows.tolist()[:4]} + {count} are out of range; there are {self.tokens}")
        out = np.empty((len(rows), count), dtype=np.int64)
        for row, start in zip(out, rows.tolist(), strict=True):
            self._copy(start, row)
        if out.size and out.max() >= self.vocab_size:
            row_at, column = np.unravel_index(int(np.argmax(out >= self.vocab_size)), out.shape)
            self._refuse_token(int(rows[row_at] + column), int(out[row_at, column]))
        return out

    def _copy(self, start: int, row: Ids) -> None:
        number = bisect.bisect_right(self._starts, start) - 1
        filled = 0
        while filled < len(row):
            within = start + filled - self._starts[number]
            part = self._shards[number][within : within + len(row) - filled]
            row[filled : filled + len(part)] = part
            filled += len(part)
            number += 1

    def _refuse_token(self, position: int, token: int) -> None:
        number = bisect.bisect_right(self._starts, position) - 1
        file = self.index.folder / self.index.splits[self.split].shards[number].file
        raise DataError(
            f"{file}: token {token} at offset {position - self._starts[number]} is not below the vocabulary size "
            f"{self.vocab_size}; the shard was altered: prepare the data again"
        )


def _map_shard(index: DataIndex, shard: ShardInfo, *, verify: bool) -> npt.NDArray[Any]:
    file = index.folder / shard.file
    dtype = index.numpy_dtype
    expected_bytes = shard.tokens * dtype.itemsize
    try:
        stat = file.stat()
        if stat.st_size != expected_bytes:
            raise DataError(
                f"{file} has {stat.st_size} bytes; expected {expected_bytes} ({shard.tokens} tokens of "
                f"{dtype.itemsize} bytes): it was cut or altered, prepare the data again"
            )
        identity = (str(file.resolve()), stat.st_size, stat.st_mtime_ns, shard.sha256)
        if verify and identity not in _verified:
            digest = sha256_of(file)
            if digest != shard.sha256:
                raise DataError(
                    f"{file} was altered: its SHA-256 is {digest[:12]}…, the index says {shard.sha256[:12]}…; "
                    "prepare the data again"
                )
            _verified.add(identity)
        # A plain view: indexing the memmap class costs several times more for small reads.
        return np.memmap(file, dtype=dtype, mode="r").view(np.ndarray)
    except FileNotFoundError:
        raise DataError(f"{file} is missing though the index names it; prepare the data again") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


def sha256_of(file: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def split_text(index: DataIndex, split: Split, *, max_bytes: int | None = None) -> bytes:
    """The UTF-8 bytes of a split's documents, one after another without ``<|endoftext|>``.

    Decoded from the shards: exact (``index.splits[split].bytes`` long) for every kind but "other". With ``max_bytes``
    only the first so many, which may end within a character.
    """
    tokenizer = Tokenizer.load(index.folder)
    if not index.splits[split].tokens:
        return b""
    data = TokenData.open(index.folder, split)
    if not tokenizer.decodes_by_bytes:
        ids = data.read(0, data.tokens).tolist()
        return tokenizer.decode(ids, skip_special=True).encode("utf-8")[:max_bytes]
    bytes_of = [
        b"" if tokenizer.is_special(token) else tokenizer.token_bytes(token)
        for token in range(tokenizer.vocab_size)
    ]
    pieces: list[bytes] = []
    decoded = 0
    for start in range(0, data.tokens, _DECODE_TOKENS):
        if max_bytes is not None and decoded >= max_bytes:
            break
        ids = data.read(start, min(_DECODE_TOKENS, data.tokens - start)).tolist()
        pieces.append(b"".join([bytes_of[token] for token in ids]))
        decoded += len(pieces[-1])
    return b"".join(pieces)[:max_bytes]
