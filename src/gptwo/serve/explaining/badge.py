"""Whether the reference is the model that is served: the largest difference of their logits, and what is tolerated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gptwo.explanation.explanation import Explanation
    from gptwo.infer.engine import Engine

POSITIONS = 32
"""Compared of a prompt. Nothing depends on what comes after it, so the first ones need no more tokens."""

# Of logits, relative to the largest of them: from the sum's order alone in float32 and float64; bf16 and fp16 round
# activations to 8 and 11 bits; the integer kernels round the inputs of every product to 8.
TOLERANCES = {"fp64": 1e-9, "fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2, "int8": 5e-2, "int4": 5e-2}


def badge(explanation: Explanation, engine: Engine, dtype: str) -> dict[str, Any]:
    """{engine, largest, tolerance, ok, what, positions}: of the logits of the prompt's first positions.

    ``largest`` and ``tolerance`` are relative to the largest logit that the reference has there. Where parts were
    changed no engine computes the same: ``ok`` is null.
    """
    count = min(POSITIONS, len(explanation.tokens))
    facts = {"engine": engine.description, "tolerance": TOLERANCES[dtype], "positions": count}
    if explanation.changes:
        return {**facts, "largest": None, "ok": None, "what": "changed on purpose: nothing to compare with"}
    ours = explanation.logits_of(slice(0, count)).cpu().numpy()
    theirs = engine.logits(explanation.tokens[:count])
    # Of numbers that are near each other the difference is exact.
    largest = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    ok = bool(largest <= TOLERANCES[dtype])
    what = f"logits of the first {count} positions, relative to the largest"
    return {**facts, "largest": largest if np.isfinite(largest) else None, "ok": ok, "what": what}
