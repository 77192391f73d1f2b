"""Tensors as bytes for the page: cut, made smaller, and never more than it can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gptwo.serve.errors import ApiError

if TYPE_CHECKING:
    from torch import Tensor

    from gptwo.explanation.explanation import Explanation
    from gptwo.serve.schemas.explain import TensorQuery, TileQuery

MOST_VALUES = 1 << 22
"""Of an answer: 16 MiB in float32."""


class Picture(NamedTuple):
    """The bytes of an array, its shape, and the least and largest value of what it is a part of."""

    content: bytes
    shape: str
    range: str


def tensor(explanation: Explanation, asked: TensorQuery) -> Picture:
    """Of one head or all, those rows and columns; means of fields where there are more than ``size``.

    Of the logits the columns can also be those of some tokens.
    """
    if asked.name == "logits":
        if asked.head is not None:
            raise _no_heads()
        rows = _slice("rows", asked.rows, len(explanation.tokens))
        # All of them may be a gigabyte: those rows alone, whose least and largest these then are.
        whole = part = _logits(explanation, rows, asked.tokens)
    else:
        if asked.tokens is not None:
            raise ApiError(400, "tokens can only be chosen of logits; leave tokens out", param="tokens")
        whole = part = explanation.tensor(asked.name)
        if asked.head is not None:
            part = _of_head(part, asked.head)
        part = part[..., _slice("rows", asked.rows, part.shape[-2]), :]
    part = part[..., _slice("columns", asked.columns, part.shape[-1])]
    return _picture(_smaller(part, asked.size, "mean"), whole)


def thumbnails(explanation: Explanation, size: int) -> Picture:
    """L×H×n×n bytes."""
    import torch

    kept = torch.from_numpy(explanation.thumbnails)
    if kept.shape[-1] > size:
        kept = _smaller(kept.float(), size, "max").byte()
    return Picture(kept.numpy().tobytes(), _shape(kept), "0,1")


def tile(explanation: Explanation, layer: int, head: int, asked: TileQuery) -> Picture:
    """Of one head's T×T weights."""
    _require("layer", layer, explanation.config.n_layer)
    weights = _of_head(explanation.tensor(f"blocks.{layer}.attention"), head)
    rows, columns = (
        _slice(name, text, len(weights)) for name, text in (("rows", asked.rows), ("columns", asked.columns))
    )
    part = _smaller(weights[rows, columns], asked.size, "max")
    if asked.format == "float32":
        return _picture(part, weights)
    content = (part * 255).round().byte().cpu().numpy().tobytes()
    return Picture(content, _shape(part), "0,1")


def _logits(explanation: Explanation, rows: slice, tokens: str | None) -> Tensor:
    count = rows.stop - rows.start
    if tokens is not None:
        ids = [int(token) for token in tokens.split(",")]
        _require("tokens", max(ids), explanation.config.vocab_size)
        return explanation.logits_of(rows, ids)
    if count * explanation.config.vocab_size > MOST_VALUES:
        raise _too_large(count * explanation.config.vocab_size)
    return explanation.logits_of(rows)


def _of_head(whole: Tensor, head: int) -> Tensor:
    if whole.dim() < 3:
        raise _no_heads()
    _require("head", head, len(whole))
    return whole[head]


def _no_heads() -> ApiError:
    return ApiError(400, "this tensor has no heads; leave head out", param="head")


def _require(name: str, value: int, count: int) -> None:
    if value >= count:
        raise ApiError(400, f"{name}={value} is not possible; expected 0 to {count - 1}", param=name)


def _slice(name: str, text: str | None, count: int) -> slice:
    first, _, last = (text or ":").partition(":")
    start, stop = int(first or 0), min(int(last or count), count)
    if start >= stop:
        raise ApiError(400, f"{name}={text} has none of {count}; expected as 0:{count}", param=name)
    return slice(start, stop)


def _smaller(part: Tensor, size: int | None, how: str) -> Tensor:
    from gptwo.explanation.pooling import pooled

    small = part if size is None else pooled(part, size, how="max" if how == "max" else "mean")
    if small.numel() > MOST_VALUES:
        raise _too_large(small.numel())
    return small


def _too_large(values: int) -> ApiError:
    return ApiError(
        400,
        f"{values:,} values are asked for; expected at most {MOST_VALUES:,}; give a head, rows, columns or a size",
        code="request_too_large",
    )


def _picture(part: Tensor, whole: Tensor) -> Picture:
    import numpy as np

    content = part.float().cpu().numpy().astype(np.dtype("<f4"), copy=False)
    return Picture(
        np.ascontiguousarray(content).tobytes(),
        _shape(part),
        f"{float(whole.min())!r},{float(whole.max())!r}",
    )


def _shape(array: Tensor) -> str:
    return ",".join(map(str, array.shape))
