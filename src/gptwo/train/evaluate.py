"""The loss over a split: every token but the first, each predicted once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gptwo.base.errors import DataError
from gptwo.data import TokenData
from gptwo.data.windows import bytes_of_predicted, windows
from gptwo.model import GPT2
from gptwo.train.distributed import ALONE, World
from gptwo.train.step import autocast


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over ``tokens`` predicted tokens, and the same nats spread over the ``bytes`` of their text."""

    nats_per_token: float
    nats_per_byte: float
    tokens: int
    bytes: int


def require_something_to_predict(data: TokenData) -> None:
    """Raises ``DataError`` for a split of one token: the first is given, and no other is there to predict."""
    if data.tokens < 2:
        raise DataError(
            f"the {data.split} split of {data.index.folder} has {data.tokens} token, and predicting needs 2; "
            "prepare more text, or with another --val-fraction"
        )


@torch.no_grad()
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

    ``max_tokens`` stops after that many predicted tokens; the bytes are the split's share of those. The ranks take
    turns with the windows, and all of them get the same result.
    """
    require_something_to_predict(data)
    device = model.token_embedding.weight.device
    limit = data.tokens if max_tokens is None else min(data.tokens, max_tokens + 1)
    predicted = limit - 1
    was_training = model.training
    model.eval()
    nats = 0.0
    context = model.config.context
    full = [window.start for window in windows(limit, context) if window.length == context]
    groups = [(full[i : i + micro_batch], context) for i in range(0, len(full), micro_batch)]
    groups += [([w.start], w.length) for w in windows(limit, context) if w.length < context]
    for index, counts in world.turns(len(groups)):
        starts, length = groups[index]
        rows = np.stack([data.read(start, length + 1) for start in starts])
        chunk = torch.from_numpy(rows).to(device)
        with autocast(device, dtype):
            loss = float(model.loss(chunk[:, :-1], chunk[:, 1:], reduction="sum"))
        nats += loss if counts else 0.0
    nats = world.total(nats)
    model.train(was_training)
    text_bytes = bytes_of_predicted(data.bytes, data.tokens, predicted)
    return Evaluation(
        nats_per_token=nats / predicted,
        nats_per_byte=nats / text_bytes,
        tokens=predicted,
        bytes=round(text_bytes),
    )
