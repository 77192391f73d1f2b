"""How many tokens' keys and values are held in memory: as asked, or what is right for this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gptwo.base.errors import ConfigError
from gptwo.base.memory import require_memory
from gptwo.base.units import in_units
from gptwo.perf.generation_plan import MOST_FOR_KV
from gptwo.serve.settings import ServeSettings

# Of the memory that the model leaves free. A quarter leaves room for the machine's other work and for what grows beside
# the cache: logits, requests.
_SHARE = 0.25


@dataclass(frozen=True)
class KVBudget:
    """``tokens`` of ``slots`` texts together, and the ``bytes`` that they take when all of them are there."""

    slots: int
    tokens: int
    bytes: int


def kv_budget(
    settings: ServeSettings,
    *,
    context: int,
    bytes_per_token: int,
    model_bytes: Mapping[str, int],
    free_bytes: int,
    paged: bool,
) -> KVBudget:
    """slots · C tokens, which is all that can be used, or what a quarter of the memory left holds, but C at least.

    ``free_bytes`` are those before the model is loaded, ``model_bytes`` the parts that it takes of them. ``kv_tokens``
    and ``kv_memory_bytes`` say otherwise. An engine that is not ``paged`` has C tokens for each slot, so there are
    fewer slots where memory is short. ``ConfigError``, with the numbers, for less than one text of C tokens. Unless
    ``force`` is set also when one text does not fit beside the model, and for more than four fifths of what it leaves.
    """
    usable = settings.slots * context
    left = max(0, free_bytes - sum(model_bytes.values()))
    if settings.kv_tokens is not None:
        tokens = settings.kv_tokens
    elif settings.kv_memory_bytes is not None:
        tokens = settings.kv_memory_bytes // bytes_per_token
    else:
        tokens = max(context, int(_SHARE * left) // bytes_per_token)
    tokens = min(tokens, usable)
    if tokens < context:
        raise ConfigError(
            f"KV memory for {tokens:,} tokens ({in_units(tokens * bytes_per_token)}) does not hold one text of the "
            f"model's context of {context:,}; expected --kv-tokens {context} or more, "
            f"--kv-memory {in_units(context * bytes_per_token)}"
        )
    if not settings.force:
        _require_room(tokens, context, bytes_per_token, model_bytes, free_bytes=free_bytes, left=left)
    slots = settings.slots
    if not paged:
        slots = tokens // context
        tokens = slots * context
    return KVBudget(slots, tokens, tokens * bytes_per_token)


def _require_room(
    tokens: int,
    context: int,
    bytes_per_token: int,
    model_bytes: Mapping[str, int],
    *,
    free_bytes: int,
    left: int,
) -> None:
    most = int(MOST_FOR_KV * left) // bytes_per_token
    if most < context:
        # What one text may take at most is a part of what there must be.
        one_text = {
            f"a text of {context:,} tokens and some room": int(context * bytes_per_token / MOST_FOR_KV)
        }
        require_memory(
            "serving this model",
            {**model_bytes, **one_text},
            free_bytes=free_bytes,
            where="this machine",
            remedy="end other programs, take a smaller model, --dtype int8",
        )
    if tokens > most:
        raise ConfigError(
            f"KV memory for {tokens:,} tokens takes {in_units(tokens * bytes_per_token)}, and beside the model "
            f"{in_units(left)} of this machine's memory are free; expected at most {most:,} tokens, which is four "
            "fifths of that, or --force to try it all the same"
        )
