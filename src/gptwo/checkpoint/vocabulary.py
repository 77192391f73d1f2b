"""Whether a model's token ids mean what prepared data's mean."""

from __future__ import annotations

from pathlib import Path

from gptwo.base.errors import DataError, TokenizerError
from gptwo.config import GPT2Config
from gptwo.tokenizer import Tokenizer


def require_same_vocabulary(folder: Path, stored: GPT2Config, tokenizer: Tokenizer, *, data: str) -> None:
    """The ids of the model in ``folder`` must mean what those of ``data``, written with ``tokenizer``, mean.

    The model's embedding may have more rows than there are tokens: padding. Raises ``DataError`` saying how to mend it.
    """
    try:
        same = Tokenizer.load(folder).vocabulary == tokenizer.vocabulary
    except TokenizerError:  # a folder without a tokenizer: its size is all that can be compared
        same = stored.vocab_size == tokenizer.vocab_size
    if not same or stored.vocab_size < tokenizer.vocab_size:
        raise DataError(
            f"the model {str(folder)!r} has a vocabulary of {stored.vocab_size} tokens and the data {data!r} another "
            f"one of {tokenizer.vocab_size}; prepare the text again with --tokenizer {folder}"
        )
