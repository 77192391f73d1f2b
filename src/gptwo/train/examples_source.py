"""What a fine-tuning run learns from: packed examples, of which only the answers count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np

from gptwo.base.errors import DataError
from gptwo.config import TrainConfig
from gptwo.data.examples import Example, Examples
from gptwo.data.packing import Fitted, PackedRows, fit_to_context
from gptwo.model import GPT2, NOT_PREDICTED
from gptwo.tokenizer import Tokenizer
from gptwo.train.distributed import ALONE, World
from gptwo.train.evaluate import Evaluation, HeldOut, mean_loss
from gptwo.train.finetune_config import LARGEST_BATCH_TOKENS, STEPS_PER_EPOCH
from gptwo.train.micro_batch import sequences_per_step
from gptwo.train.source import Batch


class PackedExamples:
    """``source.Source`` over examples: an epoch is every row once, in an order that follows from (seed, epoch) alone.

    tokens N · rows n of C positions · sequences B per step. Sample i = step·B + b is row π_e(i mod n) of epoch
    e = ⌊i / n⌋. Raises ``DataError`` when no example of a split fits into the context.
    """

    def __init__(
        self, examples: Examples, tokenizer: Tokenizer, *, context: int, batch_tokens: int | None, seed: int
    ) -> None:
        self._seed = seed
        pieces = examples.kind == "text"
        train, val = (
            fit_to_context(part, context, cut_into_pieces=pieces) for part in (examples.train, examples.val)
        )
        self.notice = _notice(train, val, context)
        for split, fitted in (("train", train), ("held-out", val)):
            if not fitted.examples:
                raise DataError(
                    f"no {split} example has an answer within the context of {context} tokens; "
                    "expected shorter prompts, or a base with a longer context"
                )
        self._train, self._val = (
            PackedRows(fitted.examples, context, not_predicted=NOT_PREDICTED) for fitted in (train, val)
        )
        self.sequences = (
            sequences_per_step(batch_tokens, context)
            if batch_tokens is not None
            else max(1, min(LARGEST_BATCH_TOKENS // context, self.rows // STEPS_PER_EPOCH))
        )
        self.tokens = sum(len(example.ids) for example in train.examples)
        self._bytes_of = np.array(
            [
                0 if tokenizer.is_special(t) else len(tokenizer.token_bytes(t))
                for t in range(tokenizer.vocab_size)
            ]
        )
        self._digest = _sha256(train.examples)
        self._order = lru_cache(maxsize=2)(self._new_order)

    @property
    def identity(self) -> str:
        return self._digest

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return len(self._train)

    @property
    def bytes_per_token(self) -> None:
        """Answers lie among tokens that are not learned, so a mean over all would not be theirs."""

    def batch(self, step: int, first: int, last: int) -> Batch:
        return Batch(*self._train.rows(self._numbers(step)[first:last]))

    def predicted_tokens(self, step: int) -> int:
        return int(self._train.predicted[self._numbers(step)].sum())

    def evaluate(self, model: GPT2, config: TrainConfig, world: World = ALONE) -> Evaluation:
        """Mean loss over the answers held out; with ``eval_tokens`` over the first rows that hold so many."""
        groups = [partial(self._read_held_out, group) for group in self._held_out_groups(config)]
        return mean_loss(model, groups, dtype=config.dtype, world=world)

    def _read_held_out(self, numbers: range) -> HeldOut:
        arrays = self._val.rows(numbers)
        predicted = arrays[1][arrays[1] != NOT_PREDICTED]
        return HeldOut(arrays, len(predicted), int(self._bytes_of[predicted].sum()))

    def _held_out_groups(self, config: TrainConfig) -> list[range]:
        """The rows to evaluate, cut into micro-batches."""
        size = config.micro_batch or 1
        groups = [range(i, min(i + size, len(self._val))) for i in range(0, len(self._val), size)]
        if config.eval_tokens is None:
            return groups
        before = np.cumsum([0] + [int(self._val.predicted[group].sum()) for group in groups])
        return [group for group, tokens in zip(groups, before, strict=False) if tokens < config.eval_tokens]

    def _numbers(self, step: int) -> np.ndarray:
        samples = range(step * self.sequences, (step + 1) * self.sequences)
        return np.array([self._order(i // self.rows)[i % self.rows] for i in samples], dtype=np.int64)

    def _new_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self.rows)


def _sha256(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(len(example.ids).to_bytes(8, "little"))
        digest.update(example.ids.astype("<i4").tobytes())
        digest.update(example.answer.tobytes())
    return digest.hexdigest()


def _notice(train: Fitted, val: Fitted, context: int) -> str:
    """One line for the user when examples were too long, else ""."""
    truncated, left_out = train.truncated + val.truncated, train.left_out + val.left_out
    if not truncated + left_out:
        return ""
    return (
        f"longer than the context of {context} tokens: {truncated} examples, whose answers are learned as far as they "
        f"fit, and {left_out} more, left out because no token of their answer fits"
    )
