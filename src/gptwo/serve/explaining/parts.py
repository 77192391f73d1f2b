"""Parts of an explanation as JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo.infer.sampling import largest
from gptwo.serve.errors import ApiError
from gptwo.serve.explaining.words import Words

if TYPE_CHECKING:
    from gptwo.explanation.explanation import Explanation
    from gptwo.infer.policy import SamplingPolicy
    from gptwo.serve.schemas.explain import (
        ContributionsQuery,
        LensQuery,
        NextQuery,
        SamplingRequest,
        WorkedQuery,
    )

TERMS = 12
"""Products of a dot product that are shown, those of the largest magnitude; the others are one sum."""
LENS_POSITIONS = 128
"""Of one answer: each costs L + 1 heads."""
_TOP = 20


def worked(explanation: Explanation, asked: WorkedQuery) -> dict[str, Any]:
    """An entry, the terms of its sum, and the other numbers of its formula."""
    index = (asked.row, asked.column) if asked.head is None else (asked.head, asked.row, asked.column)
    entry = explanation.worked(asked.name, index)
    shown, rest = entry.largest_terms(TERMS) if len(entry.a) else ([], 0.0)
    terms = [
        {
            "label": i,
            "a": float(entry.a[i]),
            "b": float(entry.b[i]),
            "product": float(entry.a[i] * entry.b[i]),
        }
        for i in shown
    ]
    return {
        "name": entry.name,
        "index": list(entry.index),
        "kind": entry.kind,
        "axis": entry.axis,
        "count": len(entry.a),
        "terms": terms,
        "rest": rest,
        "parts": entry.parts,
        "result": entry.result,
        "value": entry.value,
    }


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


def sampled(
    explanation: Explanation, words: Words, policy: SamplingPolicy, asked: SamplingRequest
) -> dict[str, Any]:
    """The stages, each with its most probable tokens, the one drawn and the one that stands there, and the draw."""
    from gptwo.explanation.sampling import draw_in_stages

    at = asked.position
    drawn = draw_in_stages(
        explanation.logits_at(at),
        explanation.tokens[: at + 1],
        policy,
        prompt_tokens=at + 1,
        seed=asked.seed,
        step=asked.step,
    )
    # The same tokens as /next shows of the logits, as far as a stage has them, and those that are asked about anyway.
    besides = [drawn.token, *explanation.tokens[at + 1 : at + 2].tolist()]
    stages = []
    for stage in drawn.stages:
        probabilities = stage.probabilities
        most = largest(stage.logits, min(_TOP, len(stage.logits))).tolist()
        ids = [i for i in dict.fromkeys([*most, *besides]) if probabilities[i] > 0]
        top = [{**words.entry(i), "value": float(stage.logits[i]), "p": float(probabilities[i])} for i in ids]
        stages.append({"name": stage.name, "kept": stage.kept, "top": top})
    token = {**words.entry(drawn.token), "u": drawn.u, "low": drawn.low, "high": drawn.high}
    return {"stages": stages, "drawn": token}


def lens(explanation: Explanation, words: Words, asked: LensQuery) -> dict[str, Any]:
    """The most probable token of every layer and position, or k of them."""
    T = len(explanation.tokens)
    first, _, last = (asked.positions or f"{max(0, T - LENS_POSITIONS)}:{T}").partition(":")
    begin, end = int(first or 0), min(int(last or T), T)
    if not 0 < end - begin <= LENS_POSITIONS:
        raise ApiError(
            400,
            f"positions={begin}:{end} are {max(0, end - begin)}; expected 1 to {LENS_POSITIONS} of {T}",
            param="positions",
        )
    found = explanation.lens(k=min(asked.k, explanation.config.vocab_size), positions=slice(begin, end))
    layers = [words.top(ids, p) for ids, p in zip(found.ids, found.probabilities, strict=True)]
    top = [[place[0] for place in layer] for layer in layers] if asked.k == 1 else layers
    return {"layers": len(layers), "positions": [begin, end], "top": top}


def contributions(explanation: Explanation, asked: ContributionsQuery) -> dict[str, Any]:
    """To one logit, in its units."""
    found = explanation.contributions(asked.position, asked.token)
    return {
        "heads": found.heads.tolist(),
        "mlps": found.mlps.tolist(),
        "embedding": found.token + found.position,
        "token": found.token,
        "position": found.position,
        "biases": found.biases,
        "total": found.total,
        "logit": found.logit,
    }


def norms(explanation: Explanation) -> dict[str, Any]:
    """Lengths of vectors."""
    found = explanation.norms()
    return {name: getattr(found, name).tolist() for name in ("residual", "attention", "mlp")}
