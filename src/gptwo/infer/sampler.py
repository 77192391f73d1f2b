"""What samples from rows of logits that are all there, with the kernels of the engine that made them. No torch."""

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
    from jaxtyping import Float32


class NativeSampler:
    """``sampling`` by the kernels, in memory that they keep: fresh arrays of V numbers cost more than the arithmetic.

    Each result depends on its own row alone. ``choose`` takes another token than ``sampling.choose`` at most where its
    u lies within 1e-9 of the border between two.
    """

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def top(self, logits: Float32[np.ndarray, "n V"], k: int) -> Top:
        """The k largest logits of each row and log Σ exp z."""
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
        """``sampling.choose``."""
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
