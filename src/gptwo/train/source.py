"""What a run learns from: the tokens of every step, and the text it is measured on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from gptwo.config import TrainConfig
from gptwo.data import TokenData, TokenOrder, batch
from gptwo.model import GPT2, NOT_PREDICTED
from gptwo.train.distributed import ALONE, World
from gptwo.train.evaluate import Evaluation, evaluate, require_something_to_predict
from gptwo.train.micro_batch import sequences_per_step

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass(frozen=True)
class Batch:
    """Rows of one step: ``NOT_PREDICTED`` targets are not learned from, ``documents`` numbers what a row packs."""

    tokens: Int[np.ndarray, "B T"]
    targets: Int[np.ndarray, "B T"]
    documents: Int[np.ndarray, "B T"] | None = None


class Source(Protocol):
    """Training rows that follow from (seed, step) alone, and the held-out loss."""

    @property
    def identity(self) -> str:
        """A fingerprint of the training tokens: a resumed run must see the same."""

    @property
    def tokens(self) -> int:
        """Training tokens in all."""

    @property
    def sequences(self) -> int:
        """Rows of one step."""

    @property
    def bytes_per_token(self) -> float | None:
        """Mean bytes of text of a predicted training token; None where they are not known."""

    def batch(self, step: int, first: int, last: int) -> Batch:
        """Rows ``first``..``last`` of ``step``."""

    def predicted_tokens(self, step: int) -> int:
        """Targets of ``step`` that are learned from, over all its rows: what its summed loss is divided by."""

    def evaluate(self, model: GPT2, config: TrainConfig, world: World = ALONE) -> Evaluation:
        """The loss on held-out text, the same on every rank."""


class Feed:
    """This rank's rows of a source as tensors on the device, ``size`` at once. ``waited_s``: seconds it took so far."""

    def __init__(self, source: Source, size: int, device: torch.device, world: World) -> None:
        self._source = source
        self._size = size
        self._device = device
        self._world = world
        self.waited_s = 0.0

    def micro_batches(self, step: int) -> Iterator[tuple[Tensor, ...]]:
        """(tokens, targets) or (tokens, targets, documents) of all of this rank's rows of ``step``."""
        for first, last in self._world.cuts(self._source.sequences, self._size):
            began = time.perf_counter()
            rows = self._source.batch(step, first, last) if first < last else self._idle(step)
            arrays = (rows.tokens, rows.targets, rows.documents)
            tensors = tuple(self._on_device(array) for array in arrays if array is not None)
            self.waited_s += time.perf_counter() - began
            yield tensors

    def _idle(self, step: int) -> Batch:
        """For a rank with fewer rows than another, which computes with it all the same: a row that teaches nothing."""
        row = self._source.batch(step, 0, 1)
        return replace(row, targets=np.full_like(row.targets, NOT_PREDICTED))

    def _on_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)


class PreparedText:
    """The two splits of a folder made by ``gptwo prepare``: windows of C tokens, every token predicted."""

    def __init__(self, folder: Path, config: TrainConfig, context: int) -> None:
        self._data, self._val_data = (TokenData.open(folder, split) for split in ("train", "val"))
        require_something_to_predict(self._val_data)
        self.tokens = self._data.tokens
        self.sequences = sequences_per_step(config.batch_tokens, context)
        self._order = TokenOrder(self.tokens, context, self.sequences, config.seed)

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return self._order.windows_per_epoch

    @property
    def identity(self) -> str:
        shards = self._data.index.splits[self._data.split].shards
        return hashlib.sha256(" ".join(shard.sha256 for shard in shards).encode()).hexdigest()

    @property
    def bytes_per_token(self) -> float:
        return self._data.bytes / self._data.tokens

    def batch(self, step: int, first: int, last: int) -> Batch:
        return Batch(*batch(self._data, self._order, step, first, last))

    def predicted_tokens(self, step: int) -> int:
        return self.sequences * self._order.context

    def evaluate(self, model: GPT2, config: TrainConfig, world: World = ALONE) -> Evaluation:
        return evaluate(
            model,
            self._val_data,
            max_tokens=config.eval_tokens,
            micro_batch=config.micro_batch or 1,
            dtype=config.dtype,
            world=world,
        )
