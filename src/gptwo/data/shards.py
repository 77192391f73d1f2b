"""Writing token ids as checksummed shards."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from gptwo.data.index import Ids, ShardInfo, Split, shard_names

SHARD_TOKENS = 100_000_000


class ShardWriter:
    """Appends ids of one split to ``train-00000.bin``, ``train-00001.bin``, ... of ``shard_tokens`` tokens each."""

    def __init__(
        self, folder: Path, split: Split, dtype: np.dtype[Any], shard_tokens: int = SHARD_TOKENS
    ) -> None:
        self.tokens = 0
        self._shards: list[ShardInfo] = []
        self._folder = folder
        self._names = shard_names(split)
        self._dtype = dtype
        self._shard_tokens = shard_tokens
        self._file: IO[bytes] | None = None
        self._name = ""
        self._written = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, ids: Ids) -> None:
        """Append ``ids``; a full shard is closed and the next begun."""
        self.tokens += len(ids)
        while len(ids):
            file = self._file or self._begin()
            part = ids[: self._shard_tokens - self._written].astype(self._dtype)
            content = part.tobytes()
            self._digest.update(content)
            file.write(content)
            self._written += len(part)
            ids = ids[len(part) :]
            if self._written == self._shard_tokens:
                self.finish()

    def finish(self) -> list[ShardInfo]:
        """Close the shard that is open, if any; return all shards written so far."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._shards.append(
                ShardInfo(file=self._name, tokens=self._written, sha256=self._digest.hexdigest())
            )
        return self._shards

    def _begin(self) -> IO[bytes]:
        self._name = next(self._names)
        self._written = 0
        self._digest = hashlib.sha256()
        self._file = (self._folder / self._name).open("wb")
        return self._file
