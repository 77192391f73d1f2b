"""Checks of token ids, and of how many they are, on their way into a model. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gptwo.base.errors import ContextLengthError, TokenizerError
from gptwo.infer.engine import Tokens


def require_tokens(tokens: Sequence[int] | np.ndarray[Any, Any], vocab_size: int) -> Tokens:
    """``tokens`` as int64; ``TokenizerError`` unless they are a flat list of ids below ``vocab_size``."""
    try:
        ids = np.asarray(tokens)
    except ValueError:  # lists of several lengths
        ids = np.array(None)
    if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or ids.size == 0):
        raise TokenizerError(
            f"got tokens of type {ids.dtype} and shape {ids.shape}; expected a flat list of whole numbers"
        )
    outside = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if outside.size:
        at = int(outside[0])
        raise TokenizerError(
            f"token {ids[at]} at position {at} is not in the model's vocabulary; expected 0 to {vocab_size - 1}; "
            "use the tokenizer that belongs to the model"
        )
    return ids.astype(np.int64)


def require_room(count: int, context: int, what: str) -> None:
    """``ContextLengthError`` when ``count`` tokens are more than the model's context."""
    if count > context:
        raise ContextLengthError(
            f"{what} has {count} tokens; expected at most the model's context of {context}; shorten it"
        )


def require_capacity(capacity: int, context: int) -> None:
    """``ContextLengthError`` for slots of a cache that hold more tokens than the model's context."""
    if capacity > context:
        raise ContextLengthError(
            f"a cache of {capacity} tokens is more than the model's context of {context}; ask for less"
        )


def require_place(count: int, capacity: int) -> None:
    """``ContextLengthError`` when ``count`` tokens are more than a slot of a cache holds."""
    if count > capacity:
        raise ContextLengthError(f"{count} tokens are more than the cache's capacity of {capacity}")
