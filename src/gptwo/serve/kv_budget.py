"""How many tokens' keys and values are held in memory: as asked, or what is right for this machine."""

from __future__ import annotations

from dataclasses import dataclass

from gptwo.base.errors import ConfigError
from gptwo.serve.settings import ServeSettings

# Of the memory that is free once the model is loaded. A quarter leaves room for the machine's other work and for what
# grows beside the cache: logits, requests, the pages of weights that are not in memory yet.
_SHARE = 0.25
# What may be asked for at most; more than this and the system begins to swap, or ends the process.
_MOST = 0.8


@dataclass(frozen=True)
class KVBudget:
    """``tokens`` of ``slots`` texts together, and the ``bytes`` that they take when all of them are there."""

    slots: int
    tokens: int
    bytes: int


def kv_budget(
    settings: ServeSettings, *, context: int, bytes_per_token: int, free_bytes: int, paged: bool
) -> KVBudget:
    """slots · C tokens, which is all that can be used, or what a quarter of the free memory holds, but C at least.

    ``kv_tokens`` and ``kv_memory_bytes`` say otherwise. An engine that is not ``paged`` has C tokens for each slot, so
    there are fewer slots where memory is short. ``ConfigError``, with the numbers, for less than one text of C tokens,
    and for more than four fifths of the free memory.
    """
    usable = settings.slots * context
    if settings.kv_tokens is not None:
        tokens = settings.kv_tokens
    elif settings.kv_memory_bytes is not None:
        tokens = settings.kv_memory_bytes // bytes_per_token
    else:
        tokens = max(context, int(_SHARE * free_bytes) // bytes_per_token)
    tokens = min(tokens, usable)
    if tokens < context:
        raise ConfigError(
            f"KV memory for {tokens:,} tokens ({in_units(tokens * bytes_per_token)}) does not hold one text of the "
            f"model's context of {context:,}; expected --kv-tokens {context} or more, "
            f"--kv-memory {in_units(context * bytes_per_token)}"
        )
    most = int(_MOST * free_bytes) // bytes_per_token
    if tokens > most:
        raise ConfigError(
            f"KV memory for {tokens:,} tokens takes {in_units(tokens * bytes_per_token)}, and of this machine's "
            f"memory {in_units(free_bytes)} are free; expected at most {most:,} tokens, which is four fifths of that"
            + (
                ""
                if most >= context
                else f", but one text takes {context:,}: free some memory, or take a smaller model"
            )
        )
    slots = settings.slots
    if not paged:
        slots = tokens // context
        tokens = slots * context
    return KVBudget(slots, tokens, tokens * bytes_per_token)


def in_units(size: int) -> str:
    """Bytes for people, in powers of 1000: ``2.42 GB``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"
