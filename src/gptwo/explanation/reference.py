"""The forward pass of ``equations.py``, all heads at once, with a name for every tensor on the way.

    embedding                     T×D     Δ E + P
    blocks.i.input                T×D     the residual stream before the block
    blocks.i.attention_norm       T×D     LN(X)
    blocks.i.q, .k, .v            H×T×K   Q_h, K_h, V_h
    blocks.i.scores               H×T×T   Q_h K_hᵀ / √K, before the mask
    blocks.i.attention            H×T×T   softmax(scores + M)
    blocks.i.heads                H×T×K   A_h
    blocks.i.head_outputs         H×T×D   A_h W_0^h: what each head adds to the residual; their sum and b_0 are:
    blocks.i.attention_output     T×D     Concat(A_1 … A_H) W_0 + b_0
    blocks.i.middle               T×D     X' = X + attention_output
    blocks.i.mlp_norm             T×D     LN(X')
    blocks.i.mlp_up, .mlp_gelu    T×F     LN(X') W_1 + b_1, and GELU of it
    blocks.i.mlp_output           T×D     GELU(…) W_2 + b_2
    blocks.i.output               T×D     X' + mlp_output
    final_norm                    T×D     LN(X_out)
    logits                        T×V     LN(X_out) Eᵀ

Plain functions on parameters; what is computed is handed to ``record`` as it comes. Axes in front of T are carried
along. Held to ``equations.py`` by ``tests/unit/explanation/test_reference.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from gptwo.config import GPT2Config
from gptwo.explanation.edits import MLP, NO_CHANGES, Changes, Place
from gptwo.model.products import linear

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Record = Callable[[str, Tensor], None]

BLOCK_NAMES = (
    *("input", "attention_norm", "q", "k", "v", "scores", "attention", "heads", "head_outputs"),
    *("attention_output", "middle", "mlp_norm", "mlp_up", "mlp_gelu", "mlp_output", "output"),
)


def ignore(name: str, tensor: Tensor) -> None:
    """The ``record`` of those who want the result alone."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A model to be explained: its parameters under our names, all on one device and of one dtype, float32 or float64.

    ``weights`` says which these are, for people: ``"as stored, in float32"``.
    """

    config: GPT2Config
    parameters: Mapping[str, Tensor]
    weights: str

    @property
    def device(self) -> torch.device:
        return self.E.device

    @property
    def E(self) -> Float[Tensor, "V D"]:  # noqa: N802 # the paper's letter
        return self.parameters["token_embedding.weight"]

    @property
    def description(self) -> str:
        """``"the reference on cpu, weights as stored, in float32"``."""
        return f"the reference on {self.device}, weights {self.weights}"

    def of_block(self, layer: int, name: str) -> Tensor:
        """The parameter ``blocks.<layer>.<name>``."""
        return self.parameters[f"blocks.{layer}.{name}"]


def tensor_names(config: GPT2Config) -> list[str]:
    """Every name, in the order of the forward pass."""
    blocks = [f"blocks.{i}.{name}" for i in range(config.n_layer) for name in BLOCK_NAMES]
    return ["embedding", *blocks, "final_norm", "logits"]


def embed(reference: Reference, tokens: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
    """Δ E + P."""
    return F.embedding(tokens, reference.E) + reference.parameters["position_embedding.weight"][: len(tokens)]


def run_block(
    reference: Reference,
    layer: int,
    x_TD: Float[Tensor, "*more T D"],
    *,
    changes: Changes = NO_CHANGES,
    record: Record = ignore,
) -> Float[Tensor, "*more T D"]:
    """What block ``layer`` makes of its input."""

    def note(name: str, tensor: Tensor) -> Tensor:
        record(f"blocks.{layer}.{name}", tensor)
        return tensor

    note("input", x_TD)
    a_HTK = run_heads(reference, layer, x_TD, record=record)
    for head in range(reference.config.n_head):
        if (change := changes.get(Place(layer, head))) is not None:
            a_HTK = a_HTK.clone()
            a_HTK[..., head, :, :] = _changed(a_HTK[..., head, :, :], change)
    note("heads", a_HTK)
    concat_TD = a_HTK.transpose(-3, -2).flatten(-2)
    weight, bias = (reference.of_block(layer, f"attention.output.{part}") for part in ("weight", "bias"))
    middle_TD = note("middle", x_TD + note("attention_output", linear(concat_TD, weight, bias)))
    y_TD = run_mlp(reference, layer, middle_TD, changes=changes, record=record)
    return note("output", middle_TD + note("mlp_output", y_TD))


def run_heads(
    reference: Reference, layer: int, x_TD: Float[Tensor, "*more T D"], *, record: Record = ignore
) -> Float[Tensor, "*more H T K"]:
    """A_h of every head, of the block's input."""
    T, H = x_TD.shape[-2], reference.config.n_head
    normed_TD = _norm(reference, f"blocks.{layer}.attention_norm", x_TD)
    record(f"blocks.{layer}.attention_norm", normed_TD)
    weight, bias = (reference.of_block(layer, f"attention.qkv.{part}") for part in ("weight", "bias"))
    qkv_T3HK = linear(normed_TD, weight, bias).view(*x_TD.shape[:-1], 3, H, -1)
    q_HTK, k_HTK, v_HTK = (part.transpose(-3, -2) for part in qkv_T3HK.unbind(-3))
    for name, tensor in (("q", q_HTK), ("k", k_HTK), ("v", v_HTK)):
        record(f"blocks.{layer}.{name}", tensor)
    scores_HTT = (q_HTK @ k_HTK.mT).div_(math.sqrt(q_HTK.shape[-1]))
    record(f"blocks.{layer}.scores", scores_HTT)
    later = torch.ones(T, T, dtype=torch.bool, device=x_TD.device).triu(diagonal=1)
    attention_HTT = scores_HTT.masked_fill(later, -math.inf).softmax(dim=-1)
    record(f"blocks.{layer}.attention", attention_HTT)
    heads_HTK: Tensor = attention_HTT @ v_HTK
    return heads_HTK


def run_mlp(
    reference: Reference,
    layer: int,
    middle_TD: Float[Tensor, "*more T D"],
    *,
    changes: Changes = NO_CHANGES,
    record: Record = ignore,
) -> Float[Tensor, "*more T D"]:
    """GELU(LN(X') W_1 + b_1) W_2 + b_2, or what takes its place."""
    normed_TD = _norm(reference, f"blocks.{layer}.mlp_norm", middle_TD)
    record(f"blocks.{layer}.mlp_norm", normed_TD)
    up = (reference.of_block(layer, f"mlp.up.{part}") for part in ("weight", "bias"))
    down = (reference.of_block(layer, f"mlp.down.{part}") for part in ("weight", "bias"))
    z_TF = linear(normed_TD, *up)
    record(f"blocks.{layer}.mlp_up", z_TF)
    g_TF = F.gelu(z_TF, approximate="tanh")
    record(f"blocks.{layer}.mlp_gelu", g_TF)
    y_TD = linear(g_TF, *down)
    change = changes.get(Place(layer, MLP))
    return y_TD if change is None else _changed(y_TD, change)


def head_outputs(
    reference: Reference, layer: int, a_HTK: Float[Tensor, "*more H T K"]
) -> Float[Tensor, "*more H T D"]:
    """A_h W_0^h of every head."""
    W_0 = reference.of_block(layer, "attention.output.weight").T  # (H·K)×D
    outputs_HTD: Tensor = a_HTK @ W_0.reshape(reference.config.n_head, -1, W_0.shape[1])
    return outputs_HTD


def final_norm(reference: Reference, x_TD: Float[Tensor, "*more T D"]) -> Float[Tensor, "*more T D"]:
    """LN(X_out), whose product with Eᵀ are the logits."""
    return _norm(reference, "final_norm", x_TD)


def unembed(reference: Reference, normed_TD: Float[Tensor, "*more T D"]) -> Float[Tensor, "*more T V"]:
    """LN(X_out) Eᵀ, of what ``final_norm`` gives."""
    return linear(normed_TD, reference.E)


def _norm(reference: Reference, name: str, x_TD: Tensor) -> Tensor:
    weight, bias = (reference.parameters[f"{name}.{part}"] for part in ("weight", "bias"))
    return F.layer_norm(x_TD, weight.shape, weight, bias, reference.config.layer_norm_epsilon)


def _changed(given: Tensor, change: str | Tensor) -> Tensor:
    """0, the mean over positions, or other values for as many positions as these are."""
    if change == "zero":
        return torch.zeros_like(given)
    if change == "mean":
        return given.mean(dim=-2, keepdim=True).expand_as(given)
    assert isinstance(change, Tensor)
    rest = given[..., len(change) :, :]
    return torch.cat([change[: given.shape[-2]].expand(*rest.shape[:-2], -1, -1), rest], dim=-2)
