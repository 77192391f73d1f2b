"""The next token stage by stage: what ``infer/sampling.py`` does at once, with everything in between kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gptwo.infer import sampling
from gptwo.infer.engine import Tokens
from gptwo.infer.policy import SamplingPolicy

if TYPE_CHECKING:
    from jaxtyping import Float


class Stage(NamedTuple):
    """The logits after a stage, -∞ where a token is out.

    ``name`` is logits, adjusted, temperature, top_k, top_p or min_p.
    After the temperature they are shifted so that the largest is 0, which changes no probability.
    """

    name: str
    logits: Float[np.ndarray, " V"]

    @property
    def kept(self) -> int:
        """Tokens that may still be drawn."""
        return int(np.count_nonzero(self.logits > -math.inf))

    @property
    def probabilities(self) -> Float[np.ndarray, " V"]:
        """softmax of the logits."""
        weights = np.exp(self.logits - self.logits.max())
        probabilities: Float[np.ndarray, " V"] = weights / weights.sum()
        return probabilities


class Drawn(NamedTuple):
    """The stages that the policy has, and the token: its share of [0, 1) is from ``low`` to ``high``, and u is in it.

    ``u`` is the number of the seed and step; greedy (temperature 0) draws none.
    """

    stages: list[Stage]
    token: int
    u: float | None
    low: float
    high: float


def draw_in_stages(
    logits: Float[np.ndarray, " V"],
    tokens: Tokens,
    policy: SamplingPolicy,
    *,
    prompt_tokens: int,
    seed: int,
    step: int,
) -> Drawn:
    """``sampling.choose`` with these arguments, which takes the same token; no model runs."""
    z = logits.astype(np.float64)
    stages = [Stage("logits", z)]
    ids, values = sampling.adjustments(logits, tokens, policy, prompt_tokens)
    if len(ids):
        z = z.copy()
        z[ids] = values
        stages.append(Stage("adjusted", z))
    if policy.temperature == 0.0:
        return Drawn(stages, int(z.argmax()), None, 0.0, 1.0)
    V, kept = len(z), np.arange(len(z))
    z = sampling.scaled(z, policy.temperature)

    def add(name: str) -> None:
        spread = np.full(V, -math.inf)
        spread[kept] = z
        stages.append(Stage(name, spread))

    add("temperature")
    # As in sampling: what top-k removes is not there for the sums of the others.
    if policy.top_k is not None:
        among = np.flatnonzero(sampling.top_k(z, policy.top_k) > -math.inf)
        kept, z = kept[among], z[among]
        add("top_k")
    if policy.top_p is not None:
        z = sampling.top_p(z, policy.top_p)
        add("top_p")
    if policy.min_p is not None:
        z = sampling.min_p(z, policy.min_p)
        add("min_p")
    u = sampling.uniform(seed, step)
    token = int(kept[sampling.draw(z, u)])
    ends = stages[-1].probabilities.cumsum()
    return Drawn(stages, token, u, float(ends[token - 1]) if token else 0.0, float(ends[token]))
