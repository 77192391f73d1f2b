"""What samples from rows of logits in host memory: NumPy, or the kernels of the engine that made them. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gptwo.infer import sampling
from gptwo.infer.engine import Tokens
from gptwo.infer.sampling import SamplingPolicy
from gptwo.kernels.interface import ChoiceStruct
from gptwo.kernels.library import Kernels
from gptwo.kernels.top import Top

if TYPE_CHECKING:
    from jaxtyping import Float, Float32


class NumpySampler:
    """``engine.Sampler`` in NumPy, as ``sampling`` has it."""

    def top(self, logits: Float[np.ndarray, "n V"], k: int) -> Top:
        # A row with a NaN is refused by its sum; its largest are anything.
        ids = [sampling.largest(np.where(np.isnan(z), -np.inf, z), k) for z in logits]
        ids_nk = np.array(ids, dtype=np.int64).reshape(len(logits), min(k, logits.shape[1]))
        return Top(ids_nk, np.take_along_axis(logits, ids_nk, axis=1), sampling.log_sum_exp(logits))

    def choose(
        self,
        logits: Float[np.ndarray, " V"],
        tokens: Tokens,
        policy: SamplingPolicy,
        *,
        prompt_tokens: int,
        seed: int,
        step: int,
    ) -> int:
        return sampling.choose(logits, tokens, policy, prompt_tokens=prompt_tokens, seed=seed, step=step)


class NativeSampler:
    """``engine.Sampler`` by the kernels, in memory that they keep: fresh arrays of V cost as much as the arithmetic."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def top(self, logits: Float32[np.ndarray, "n V"], k: int) -> Top:
        return self._kernels.top(logits, k)

    def choose(
        self,
        logits: Float32[np.ndarray, " V"],
        tokens: Tokens,
        policy: SamplingPolicy,
        *,
        prompt_tokens: int,
        seed: int,
        step: int,
    ) -> int:
        ids, values = sampling.adjustments(logits, tokens, policy, prompt_tokens)
        choice = ChoiceStruct(
            policy.temperature,
            # More than all is all.
            min(int(policy.top_k or 0), len(logits)),
            policy.top_p if policy.top_p is not None else 1.0,
            policy.min_p if policy.min_p is not None else 0.0,
            sampling.uniform(seed, step) if policy.temperature > 0.0 else 0.0,
        )
        return self._kernels.choose(logits, (ids.astype(np.int32), values), choice)
