"""Sampling from the largest logits alone, where they decide the token: what ``choose`` makes of all V. No torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gptwo.infer import sampling
from gptwo.infer.sampling import SamplingPolicy

if TYPE_CHECKING:
    from jaxtyping import Float, Int

MOST_CANDIDATES = 64
"""Logits of a row that are kept at most; for a policy that may need more, all V are written."""


def candidates(policy: SamplingPolicy) -> int | None:
    """How many of the largest logits the next token is a function of; None where it may need all.

    Of top-k one more than k: it shows that the k-th largest has no equals behind it, which would stay too.
    """
    adjusts = (
        policy.repetition_penalty != 1.0 or policy.presence_penalty != 0.0 or policy.frequency_penalty != 0.0
    )
    if adjusts or policy.logit_bias:
        return None
    if policy.temperature == 0.0:
        return 1
    if policy.top_k is not None and policy.top_k < MOST_CANDIDATES:
        return int(policy.top_k) + 1
    return None


def decided(
    ids: Int[np.ndarray, " k"],
    logits: Float[np.ndarray, " k"],
    policy: SamplingPolicy,
    *,
    drawable: int,
) -> bool:
    """Whether the next token is a function of these, the largest logits in order: ``candidates(policy)`` or all V.

    Ids from ``drawable`` on are not drawn.
    """
    places = np.flatnonzero(ids < drawable)
    if policy.temperature == 0.0:
        return len(places) > 0
    assert policy.top_k is not None
    if len(ids) <= policy.top_k:
        return True
    if len(places) < policy.top_k:
        return False
    # No logit that is not here is above the last one here. Dividing by a temperature can make equals of two.
    first, kth, last = (float(logits[i]) for i in (places[0], places[policy.top_k - 1], -1))
    kth, last = (kth - first) / float(policy.temperature), (last - first) / float(policy.temperature)
    return last < kth or last == -math.inf


def choose_from_top(
    ids: Int[np.ndarray, " k"],
    logits: Float[np.ndarray, " k"],
    policy: SamplingPolicy,
    *,
    drawable: int,
    seed: int,
    step: int,
) -> int:
    """Where among these stands the token that ``sampling.choose`` takes of all logits, which they have ``decided``."""
    places = np.flatnonzero(ids < drawable)
    if policy.temperature == 0.0:
        return int(places[0])
    by_id = places[np.argsort(ids[places])]
    return int(by_id[sampling.drawn(logits[by_id].astype(np.float64), policy, sampling.uniform(seed, step))])
