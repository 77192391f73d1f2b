"""The logit lens: what the model would say if it ended after each block.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gptwo.explanation.bounds import require_between
from gptwo.explanation.reference import final_norm
from gptwo.model.products import linear

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int

    from gptwo.explanation.explanation import Explanation

# Tiles of logits: 1024×1024 float32 are 4 MB.
_ROWS_AT_ONCE = 1024
_COLUMNS_AT_ONCE = 1024


class Lens(NamedTuple):
    """The k most probable tokens of softmax(LN(X_i) Eᵀ), X_0 the embedding and X_i what block i gives, and their p."""

    ids: Int[np.ndarray, "L+1 T k"]
    probabilities: Float[np.ndarray, "L+1 T k"]


@torch.inference_mode()
def lens(explanation: Explanation, *, k: int = 1, positions: slice = slice(None)) -> Lens:
    """Of every layer at these positions; k from 1 to V, else ``ConfigError``.

    Costs L + 1 heads: 1.0 GFLOP for each position of GPT-2 small.
    """
    reference = explanation.reference
    require_between("k", k, 1, reference.config.vocab_size)
    names = [*(f"blocks.{i}.input" for i in range(reference.config.n_layer)), "residual"]
    x_LnD = torch.stack([final_norm(reference, explanation.kept[name][positions]) for name in names])
    parts = [_most_probable(x_rD, reference.E, k) for x_rD in torch.split(x_LnD.flatten(0, 1), _ROWS_AT_ONCE)]
    ids, probabilities = (
        torch.cat(part).view(*x_LnD.shape[:2], k).cpu().numpy() for part in zip(*parts, strict=True)
    )
    return Lens(ids, probabilities)


def _most_probable(x_rD: Tensor, E: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """ids and p of softmax(x Eᵀ), r×k. Twice as fast as layer by layer: E is read once, and some columns of logits at a
    time stay in the cache."""
    values, ids, totals = [], [], []
    for tile, E_vD in enumerate(torch.split(E, _COLUMNS_AT_ONCE)):
        logits_rv = linear(x_rD, E_vD)
        # One largest is found six times as fast as several.
        largest = logits_rv.max(dim=1, keepdim=True) if k == 1 else logits_rv.topk(min(k, len(E_vD)), dim=1)
        values.append(largest.values)
        ids.append(largest.indices + tile * _COLUMNS_AT_ONCE)
        most_r1 = largest.values[:, :1]
        totals.append(most_r1 + logits_rv.sub_(most_r1).exp_().sum(dim=1, keepdim=True).log())
    values_rk, places = torch.cat(values, dim=1).topk(k, dim=1)
    log_sum_exp_r1 = torch.cat(totals, dim=1).logsumexp(dim=1, keepdim=True)
    return torch.cat(ids, dim=1).gather(1, places), (values_rk - log_sum_exp_r1).exp()
