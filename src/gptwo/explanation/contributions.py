"""How much each part adds to one logit directly, and how long the vectors are that parts add to the residual stream.

X_out is a sum: the embedding, A_h W_0^h of every head, every b_0, and every MLP. With σ = √(var X_out + ε) held as it
is, the last layer norm is linear, and so a logit is a sum over the same parts:

    logit_v = Σ_parts ⟨part, δ⟩ + ⟨β, E_v⟩,   δ = (γ∘E_v - mean(γ∘E_v)) / σ

What a part does through later parts counts as theirs. Source: Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits", direct paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from gptwo.explanation.bounds import require_between
from gptwo.model.products import linear

if TYPE_CHECKING:
    from jaxtyping import Float

    from gptwo.explanation.explanation import Explanation


class Contributions(NamedTuple):
    """What parts add to one logit; ``total`` is their sum and equals ``logit`` up to rounding.

    token, position   of the embedding: the row of E, and of P
    heads, mlps       of each head, without b_0; of each MLP, b_2 included
    biases            of every b_0, and of the last layer norm's β
    """

    heads: Float[np.ndarray, "L H"]
    mlps: Float[np.ndarray, " L"]
    token: float
    position: float
    biases: float
    total: float
    logit: float


class Norms(NamedTuple):
    """Euclidean norms: of X before every block and after the last, and of what attention and the MLP add to it."""

    residual: Float[np.ndarray, "L+1 T"]
    attention: Float[np.ndarray, "L T"]
    mlp: Float[np.ndarray, "L T"]


@torch.inference_mode()
def contributions(explanation: Explanation, position: int, token: int) -> Contributions:
    """To the logit of ``token`` after ``position``, in float64. ``ConfigError`` for a token that there is not."""
    reference, config = explanation.reference, explanation.config
    require_between("token", token, 0, config.vocab_size - 1)
    parameters = reference.parameters
    x_D = explanation.kept["residual"][position].double()
    u_D = parameters["final_norm.weight"].double() * reference.E[token].double()
    sigma = (x_D.var(correction=0) + config.layer_norm_epsilon).sqrt()
    delta_D = (u_D - u_D.mean()) / sigma
    heads_LH = np.empty((config.n_layer, config.n_head))
    mlps_L = np.empty(config.n_layer)
    biases = float(parameters["final_norm.bias"].double() @ reference.E[token].double())
    for i in range(config.n_layer):
        a_HK = explanation.kept[f"blocks.{i}.heads"][:, position].double()
        W_0 = reference.of_block(i, "attention.output.weight").T.double()
        heads_LH[i] = (a_HK * (W_0 @ delta_D).view_as(a_HK)).sum(dim=1).cpu()
        mlps_L[i] = explanation.kept[f"blocks.{i}.mlp_output"][position].double() @ delta_D
        biases += float(reference.of_block(i, "attention.output.bias").double() @ delta_D)
    row = reference.E[int(explanation.tokens[position])].double()
    of_token = float(row @ delta_D)
    of_position = float(parameters["position_embedding.weight"][position].double() @ delta_D)
    total = float(heads_LH.sum() + mlps_L.sum()) + of_token + of_position + biases
    logit = float(explanation.kept["final_norm"][position].double() @ reference.E[token].double())
    return Contributions(heads_LH, mlps_L, of_token, of_position, biases, total, logit)


@torch.inference_mode()
def norms(explanation: Explanation) -> Norms:
    """Of every layer and position."""
    reference, L = explanation.reference, explanation.config.n_layer
    residual = [*(explanation.kept[f"blocks.{i}.input"] for i in range(L)), explanation.kept["residual"]]
    attention = []
    for i in range(L):
        concat_TD = explanation.kept[f"blocks.{i}.heads"].transpose(0, 1).flatten(1)
        output = (reference.of_block(i, f"attention.output.{part}") for part in ("weight", "bias"))
        attention.append(linear(concat_TD, *output))
    mlp = [explanation.kept[f"blocks.{i}.mlp_output"] for i in range(L)]
    return Norms(
        *(
            np.stack([x_TD.norm(dim=1).cpu().numpy() for x_TD in parts])
            for parts in (residual, attention, mlp)
        )
    )
