"""The loss over a whole text or a split of prepared data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from gptwo.base.errors import ConfigError, DataError
from gptwo.checkpoint.vocabulary import require_same_vocabulary
from gptwo.data import Sources, Split, TokenData
from gptwo.data.index import Ids
from gptwo.data.pieces import pieces
from gptwo.data.windows import bytes_of_predicted, windows
from gptwo.evaluation.result import EvaluationResult, Progress, perplexity
from gptwo.evaluation.scoring import Row, score
from gptwo.infer.api import LanguageModel
from gptwo.infer.prompt import require_tokens
from gptwo.tokenizer import Tokenizer

_PIECES_AT_ONCE = 64


@dataclass(frozen=True)
class Text:
    """A row of token ids, ``read(start, count)``, and the UTF-8 bytes that they stand for."""

    read: Callable[[int, int], Ids]
    tokens: int
    bytes: int


def evaluate_loss(
    model: LanguageModel,
    data: Path,
    *,
    split: Split | None,
    stride: int | None,
    limit: int | None,
    batch: int | None,
    progress: Progress,
) -> EvaluationResult:
    """Every token but the first predicted once, in windows of C tokens, each S after the one before (``stride``; C).

    nats per token are the mean of -log p; perplexity is e to that; nats per byte are the same nats over the bytes of
    the predicted tokens, bits per byte those over log 2. ``limit`` stops after that many predicted tokens.
    """
    C = model.config.context
    if stride is not None and not 1 <= stride <= C:
        raise ConfigError(f"stride={stride} is not possible; expected 1 to the model's context of {C}")
    text = open_text(model, data, split)
    tokens = text.tokens if limit is None else min(text.tokens, limit + 1)
    rows = (
        Row(text.read(window.start, window.length + 1), window.predicted)
        for window in windows(tokens, C, stride)
    )
    nats, predicted = 0.0, 0
    for scored in score(model.engine, rows, batch=batch):
        nats -= float(scored.log_probs.sum(dtype=np.float64))
        predicted += len(scored.log_probs)
        progress(predicted, tokens - 1)
    text_bytes = bytes_of_predicted(text.bytes, text.tokens, predicted)
    return EvaluationResult(
        task="loss",
        protocol="side-by-side" if stride in (None, C) else "sliding",
        rule=_rule(C, stride or C),
        metrics={
            "nats_per_token": nats / predicted,
            "perplexity": perplexity(nats / predicted),
            "nats_per_byte": nats / text_bytes,
            "bits_per_byte": nats / text_bytes / math.log(2),
        },
        counts={"tokens": predicted, "bytes": round(text_bytes)},
    )


def open_text(model: LanguageModel, data: Path, split: Split | None = None) -> Text:
    """A prepared folder's split ("val" when None) or a text file, as ids of ``model``: two at least.

    Raises ``DataError``, and ``TokenizerError`` for a tokenizer in the model's folder that has ids beyond the model's.
    """
    text = _prepared(model, data, split or "val") if data.is_dir() else _file(model, data, split)
    if text.tokens < 2:
        raise DataError(
            f"{data} has {text.tokens} tokens to evaluate, and predicting needs 2; give more text"
        )
    return text


def _rule(context: int, stride: int) -> str:
    once = f"every token but the first predicted once, in windows of {context} tokens"
    if stride == context:
        return f"{once} side by side, no state between them"
    return (
        f"{once}, each {stride} after the one before: "
        f"from all tokens before it, or from at least {context - stride + 1}"
    )


def _prepared(model: LanguageModel, folder: Path, split: Split) -> Text:
    data = TokenData.open(folder, split)
    require_same_vocabulary(model.folder, model.config, Tokenizer.load(folder), data=str(folder))
    return Text(data.read, data.tokens, data.bytes)


def _file(model: LanguageModel, file: Path, split: Split | None) -> Text:
    """Read as ``gptwo prepare`` reads it; where it holds several documents, ``<|endoftext|>`` follows each."""
    if split is not None:
        raise ConfigError(
            f"there is no {split} split in the file {file}; give a prepared folder, or leave out --split"
        )
    tokenizer = model.tokenizer
    end = np.array([] if tokenizer.eot_id is None else [tokenizer.eot_id], dtype=np.int64)
    parts: list[Ids] = []
    text_bytes = documents = 0
    for document in Sources([str(file)]):
        documents += 1
        pieces_left = pieces(document.blocks)
        while texts := list(islice(pieces_left, _PIECES_AT_ONCE)):
            parts += tokenizer.encode_arrays(texts)
            text_bytes += sum(len(text.encode("utf-8")) for text in texts)
        parts.append(end)
    if documents == 1:
        parts.pop()
    ids = require_tokens(np.concatenate(parts) if parts else end[:0], model.config.vocab_size)
    return Text(lambda start, count: ids[start : start + count], len(ids), text_bytes)
