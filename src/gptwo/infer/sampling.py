"""From logits to the next token (paper §5): NumPy on one row of V logits, one pure function per stage.

The stages run in the order of transformers' ``generate``, and each equals its logits processor where it has one:

    logit bias          SequenceBias of single tokens
    repetition penalty  on tokens in the prompt and the text
    count penalties     presence and frequency, on tokens in the text alone: OpenAI's, transformers has none
    temperature, top-k, top-p, min-p

A token that a stage removes has the logit -∞. The draw takes its uniform number from (seed, step) alone, so a seed
gives the same text on every engine and in every batch, as long as the engines' logits agree.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gptwo.infer.policy import SamplingPolicy as SamplingPolicy  # noqa: PLC0414 # who samples finds it here too

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Probabilities that are added one after the other, in the draw.
_BLOCK = 256
# Rows of logits turned to float64 at a time: 64 rows of V=50257 are 26 MB.
_ROWS_AT_ONCE = 64


# --- The stages -------------------------------------------------------------------------------------------------------


def logit_bias(logits: Float[np.ndarray, " V"], bias: Mapping[int, float]) -> Float[np.ndarray, " V"]:
    """z_i + bias_i for every id i < V in ``bias``."""
    biased = logits.copy()
    biased[list(bias)] += list(bias.values())
    return biased


def repetition_penalty(
    logits: Float[np.ndarray, " V"], tokens: Int[np.ndarray, " n"], penalty: float
) -> Float[np.ndarray, " V"]:
    """For every token in ``tokens`` (prompt and text so far), once: z / penalty where z >= 0, z · penalty below 0.

    Source: Keskar et al. 2019 (CTRL), §4.1, in the form that transformers gave it.
    """
    seen = logits[tokens]
    penalised = logits.copy()
    penalised[tokens] = np.where(seen < 0, seen * penalty, seen / penalty)
    return penalised


def count_penalties(
    logits: Float[np.ndarray, " V"], written: Int[np.ndarray, " n"], presence: float, frequency: float
) -> Float[np.ndarray, " V"]:
    """z_i - presence · [c_i > 0] - frequency · c_i, where token i occurs c_i times in the text, the prompt left out.

    Source: OpenAI's API reference, "frequency and presence penalties".
    """
    tokens, counts = np.unique(written, return_counts=True)
    penalised = logits.copy()
    penalised[tokens] -= presence + frequency * counts
    return penalised


def temperature(logits: Float[np.ndarray, " V"], tau: float) -> Float[np.ndarray, " V"]:
    """z / τ, τ > 0."""
    return logits / tau


def top_k(logits: Float[np.ndarray, " V"], k: int) -> Float[np.ndarray, " V"]:
    """Keep the logits that reach the k-th largest; those equal to it stay, all of them."""
    V = logits.shape[0]
    if k >= V:
        return logits
    threshold = np.partition(logits, V - k)[V - k]
    return np.where(logits < threshold, -math.inf, logits)


def top_p(logits: Float[np.ndarray, " V"], p: float) -> Float[np.ndarray, " V"]:
    """Keep the fewest most probable tokens whose probabilities reach p (always one).

    Of equal logits at the border the lowest ids stay, as in ``equations.top_p``; transformers keeps as many, and
    leaves open which. The border is found by halving the candidates around their median: O(V), where sorting all of
    them is O(V log V). Source: Holtzman et al. 2019, §3.1.
    """
    if p >= 1.0:
        return logits
    weights = _weights(logits)
    total = weights.sum()
    target = p * total
    # All tokens below this weight together have less than 1 - p, so the border is above it.
    floor = (1.0 - p) * total / len(weights)
    # The tokens above the candidates have been counted, and their mass is below the target.
    candidates, count_above, mass_above = weights[weights > floor], 0, 0.0
    while candidates.size:
        middle = candidates.size // 2
        candidates = np.partition(candidates, middle)
        median, larger, smaller = candidates[middle], candidates[middle + 1 :], candidates[:middle]
        mass_larger = larger.sum()
        if mass_above + mass_larger >= target:
            candidates = larger
        elif mass_above + mass_larger + median >= target:
            kept = weights > median
            equal = np.flatnonzero(weights == median)
            wanted = count_above + larger.size + 1 - np.count_nonzero(kept)
            kept[equal[:wanted]] = True
            return np.where(kept, logits, -math.inf)
        else:
            candidates = smaller
            count_above += larger.size + 1
            mass_above += mass_larger + median
    return logits


def min_p(logits: Float[np.ndarray, " V"], p: float) -> Float[np.ndarray, " V"]:
    """Keep the tokens at least p times as probable as the most probable one. Source: Nguyen et al. 2024, §3."""
    return np.where(_weights(logits) < p, -math.inf, logits)


def process(
    logits: Float[np.ndarray, " V"],
    tokens: Int[np.ndarray, " n"],
    policy: SamplingPolicy,
    *,
    prompt_tokens: int,
) -> Float[np.ndarray, " V"]:
    """The logits after every stage of the policy, in float64; at temperature 0 after the bias and the penalties alone.

    ``tokens`` are those so far, of which the first ``prompt_tokens`` are the prompt.
    """
    z = _adjusted(logits, tokens, policy, prompt_tokens)
    if policy.temperature == 0.0:
        return z
    kept, left = _left(z, policy)
    processed = np.full(len(z), -math.inf)
    processed[kept] = left
    return processed


def adjustments(
    logits: Float[np.ndarray, " V"], tokens: Int[np.ndarray, " n"], policy: SamplingPolicy, prompt_tokens: int
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """The ids whose logits the bias and the penalties change, ascending, and what these become, in float64."""
    bias, written = policy.logit_bias or {}, tokens[prompt_tokens:]
    repeats = policy.repetition_penalty != 1.0
    counts = policy.presence_penalty != 0.0 or policy.frequency_penalty != 0.0
    ids = np.array(list(bias), dtype=np.int64)
    if repeats or counts:
        ids = np.concatenate([ids, tokens if repeats else written])
    ids = np.unique(ids)
    z = logits[ids].astype(np.float64)
    if bias:
        z = logit_bias(z, dict(zip(np.searchsorted(ids, list(bias)), bias.values(), strict=True)))
    if repeats:
        z = repetition_penalty(z, np.searchsorted(ids, tokens), policy.repetition_penalty)
    if counts:
        places = np.searchsorted(ids, written)
        z = count_penalties(z, places, policy.presence_penalty, policy.frequency_penalty)
    return ids, z


def _adjusted(
    logits: Float[np.ndarray, " V"], tokens: Int[np.ndarray, " n"], policy: SamplingPolicy, prompt_tokens: int
) -> Float[np.ndarray, " V"]:
    z = logits.astype(np.float64)
    ids, values = adjustments(logits, tokens, policy, prompt_tokens)
    z[ids] = values
    return z


def scaled(logits: Float[np.ndarray, " V"], tau: float) -> Float[np.ndarray, " V"]:
    """(z - max z) / τ: the shift changes no probability, and lets the smallest τ overflow to -∞ only, never to +∞."""
    with np.errstate(over="ignore"):
        return temperature(logits - logits.max(), tau)


def _left(
    z: Float[np.ndarray, " V"], policy: SamplingPolicy
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Where the temperature and top-k leave something, and what top-p and min-p make of that alone."""
    z = scaled(z, policy.temperature)
    kept = np.arange(len(z))
    if policy.top_k is not None:
        kept = np.flatnonzero(top_k(z, policy.top_k) > -math.inf)
        z = z[kept]
    if policy.top_p is not None:
        z = top_p(z, policy.top_p)
    if policy.min_p is not None:
        z = min_p(z, policy.min_p)
    return kept, z


# --- The draw ---------------------------------------------------------------------------------------------------------


def fresh_seed() -> int:
    """A seed from the system's randomness, short enough to be typed again."""
    return secrets.randbelow(2**32)


def uniform(seed: int, step: int) -> float:
    """The number in [0, 1) of this seed and step: Philox 4×64 keyed by both (Salmon et al. 2011), no state kept."""
    key = np.array([seed, step], dtype=np.uint64)
    return float(np.random.Generator(np.random.Philox(key=key)).random())


def draw(logits: Float[np.ndarray, " V"], u: float) -> int:
    """The inverse of softmax's cumulative distribution at u in [0, 1), in float64: the first id whose sum exceeds u.

    Sums of blocks are added first, and then those of one block: one sum after the other waits for each of them.
    """
    weights = _weights(logits)
    ends = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK)).cumsum()
    # The largest u is 1 - 2⁻⁵³, and its product with any total rounds to a number below the total.
    sought = u * ends[-1]
    block = int(np.searchsorted(ends, sought, side="right"))
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK]
    sums = inside.cumsum() + (ends[block - 1] if block else 0.0)
    # A block's own sum may be rounded to more than its tokens' one after the other.
    last = int(np.flatnonzero(inside)[-1])
    return block * _BLOCK + min(last, int(np.searchsorted(sums, sought, side="right")))


def drawn(z: Float[np.ndarray, " V"], policy: SamplingPolicy, u: float) -> int:
    """The draw at u after the temperature and the filters: the index of z. What top-k removes leaves no trace in it."""
    kept, left = _left(z, policy)
    return int(kept[draw(left, u)])


def choose(
    logits: Float[np.ndarray, " V"],
    tokens: Int[np.ndarray, " n"],
    policy: SamplingPolicy,
    *,
    prompt_tokens: int,
    seed: int,
    step: int,
) -> int:
    """The id that follows ``tokens``: the policy's stages, then the draw of (seed, step) or, greedy, the largest."""
    z = _adjusted(logits, tokens, policy, prompt_tokens)
    return int(z.argmax()) if policy.temperature == 0.0 else drawn(z, policy, uniform(seed, step))


def log_probabilities(
    logits: Float[np.ndarray, "T V"], tokens: Int[np.ndarray, T * n]
) -> Float[np.ndarray, T * n]:
    """log softmax(logits_t)[tokens_t] for every row, of one token or several, natural, computed in float64."""
    result = np.empty(tokens.shape)
    for start in range(0, len(tokens), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        z = logits[rows].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        of_rows = tokens[rows].reshape(len(z), -1)
        taken = np.take_along_axis(z, of_rows, axis=1) - np.log(np.exp(z).sum(axis=1, keepdims=True))
        result[rows] = taken.reshape(tokens[rows].shape)
    return result


def log_sum_exp(logits: Float[np.ndarray, "T V"]) -> Float[np.ndarray, " T"]:
    """log Σ exp z of every row, natural, computed in float64; NaN where a z is NaN or +∞."""
    sums = np.empty(len(logits))
    for start in range(0, len(sums), _ROWS_AT_ONCE):
        z = logits[start : start + _ROWS_AT_ONCE].astype(np.float64)
        largest_z = z.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            z -= largest_z
        sums[start : start + _ROWS_AT_ONCE] = largest_z[:, 0] + np.log(np.exp(z).sum(axis=1))
    return sums


def largest(logits: Float[np.ndarray, " V"], count: int) -> Int[np.ndarray, " count"]:
    """The ids of the ``count`` largest logits, the largest first, of equal ones the lowest id; all where V is less."""
    V = len(logits)
    if count == 0:
        return np.empty(0, dtype=np.int64)
    threshold = np.partition(logits, V - count)[V - count] if count < V else -np.inf
    candidates = np.flatnonzero(logits >= threshold)
    order = np.argsort(-logits[candidates], kind="stable")
    ids: Int[np.ndarray, " count"] = candidates[order[:count]]
    return ids


def _weights(logits: Float[np.ndarray, " V"]) -> Float[np.ndarray, " V"]:
    """exp(z - max z) in float64: the probabilities times a constant."""
    return np.exp(logits.astype(np.float64) - float(logits.max()))
