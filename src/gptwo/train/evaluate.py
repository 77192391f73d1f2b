"""The held-out loss: every target that is held out, each predicted once, by the ranks in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gptwo.base.errors import DataError
from gptwo.data import TokenData
from gptwo.data.windows import bytes_of_predicted, windows
from gptwo.model import GPT2
from gptwo.train.distributed import ALONE, World
from gptwo.train.ranks import is_sharded, leave_forward
from gptwo.train.setup import loss_function
from gptwo.train.step import autocast


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over ``tokens`` predicted tokens, and the same nats spread over the ``bytes`` of their text."""

    nats_per_token: float
    nats_per_byte: float
    tokens: int
    bytes: int


class EvaluationError(Exception):
    """What one rank's evaluation failed of, on every rank. They are in step, and can go on together."""


@dataclass(frozen=True)
class HeldOut:
    """Rows to predict: tokens, targets, and documents where rows are packed, as ``GPT2.loss`` takes them.

    ``tokens`` of the targets count; they stand for ``bytes`` of text.
    """

    arrays: tuple[np.ndarray, ...]
    tokens: int
    bytes: float


@torch.no_grad()
def mean_loss(
    model: GPT2, groups: Sequence[Callable[[], HeldOut]], *, dtype: str, world: World = ALONE
) -> Evaluation:
    """The loss over all groups of rows, which are read one at a time; the same on every rank.

    Without other ranks an error is raised as it is. An error of any rank is ``EvaluationError`` on all of them, but for
    one inside the forward pass of a sharded model that this rank alone has, which leaves the others waiting: it too is
    raised as it is, and the run ends.
    """
    device = model.token_embedding.weight.device
    loss_sum = loss_function(model, compile_step=False)
    sharded = is_sharded(model, world)
    sums = np.zeros(3)
    failure: Exception | None = None
    was_training = model.training
    model.eval()
    for index, counts in world.turns(len(groups)):
        try:
            rows = groups[index]()
        except Exception as error:
            failure = error
        if world.largest(int(failure is not None)) if sharded else failure:
            break
        try:
            tensors = (torch.from_numpy(array).to(device) for array in rows.arrays)
            with autocast(device, dtype):
                nats = float(loss_sum(*tensors))
        except Exception as error:
            leave_forward(model, error, world)
            failure = error
            break
        if counts:
            sums += nats, rows.tokens, rows.bytes
    model.train(was_training)
    if failure and world.size == 1:
        raise failure
    word = f"rank {world.rank}: {type(failure).__name__}: {failure}" if failure else None
    if word := world.first_word(word):
        raise EvaluationError(word) from failure
    nats, tokens, text_bytes = (world.total(value) for value in sums.tolist())
    return Evaluation(nats / tokens, nats / (text_bytes or 1.0), round(tokens), round(text_bytes))


def require_something_to_predict(data: TokenData) -> None:
    """Raises ``DataError`` for a split of one token: the first is given, and no other is there to predict."""
    if data.tokens < 2:
        raise DataError(
            f"the {data.split} split of {data.index.folder} has {data.tokens} token, and predicting needs 2; "
            "prepare more text, or with another --val-fraction"
        )


def evaluate(
    model: GPT2,
    data: TokenData,
    *,
    max_tokens: int | None = None,
    micro_batch: int = 8,
    dtype: str = "fp32",
    world: World = ALONE,
) -> Evaluation:
    """Loss of the model over a split, from windows of C tokens side by side, no state carried between them.

    ``max_tokens`` stops after that many predicted tokens; the bytes are the split's share of those. Errors as
    ``mean_loss``.
    """
    require_something_to_predict(data)
    limit = data.tokens if max_tokens is None else min(data.tokens, max_tokens + 1)
    context = model.config.context
    full = [window.start for window in windows(limit, context) if window.length == context]
    groups = [(full[i : i + micro_batch], context) for i in range(0, len(full), micro_batch)]
    groups += [([w.start], w.length) for w in windows(limit, context) if w.length < context]
    return mean_loss(model, [partial(_read, data, *group) for group in groups], dtype=dtype, world=world)


def _read(data: TokenData, starts: Sequence[int], length: int) -> HeldOut:
    rows = np.stack([data.read(start, length + 1) for start in starts])
    predicted = len(starts) * length
    text_bytes = bytes_of_predicted(data.bytes, data.tokens, predicted)
    return HeldOut((rows[:, :-1], rows[:, 1:]), predicted, text_bytes)
