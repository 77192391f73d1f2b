"""Parts of an explanation as JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo.infer.sampling import largest
from gptwo.serve.explaining.words import Words

if TYPE_CHECKING:
    from gptwo.explanation.explanation import Explanation
    from gptwo.serve.schemas.explain import (
        NextQuery,
    )


def following(explanation: Explanation, words: Words, asked: NextQuery) -> dict[str, Any]:
    """The most probable tokens, with their logits."""
    position = asked.position
    logits_V = explanation.logits_at(position).astype(np.float64)
    ids = largest(logits_V, min(asked.k, len(logits_V)))
    total = float(explanation.top.log_sum_exp[position])
    top = [
        {**words.entry(token), "logit": z, "p": math.exp(z - total)}
        for token, z in zip(ids.tolist(), logits_V[ids].tolist(), strict=True)
    ]
    return {"top": top, "entropy": float(explanation.entropy[position]), "logsumexp": total}
