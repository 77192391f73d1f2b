"""One entry of one tensor, worked by hand: which numbers are multiplied and added, and what comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptwo.base.errors import ConfigError
from gptwo.explanation.edits import MLP, Place

if TYPE_CHECKING:
    from gptwo.explanation.explanation import Explanation

Kind = Literal["dot", "sum", "norm", "softmax", "masked", "gelu", "changed"]
_NO_TERMS = np.empty(0)


@dataclass(frozen=True, eq=False)
class Worked:
    """An entry and how it came about. All numbers are float64, of what the reference holds.

    kind      formula of ``result``
    dot       (Σ_i a_i b_i + bias) / divisor, over ``axis``: D, K, F or T of the notation
    sum       the sum of ``parts``
    norm      gamma (x - mean) / √(variance + epsilon) + beta
    softmax   exp(score - max) / sum; sum is Σ exp(score - max) over what the token sees
    masked    0: a token does not see those after it
    gelu      ½ z (1 + tanh(√(2/π) (z + 0.044715 z³)))
    changed   what an edit or a patch put there

    ``value`` is the entry itself, which differs from ``result`` by the tensor's own rounding alone.
    """

    name: str
    index: tuple[int, ...]
    kind: Kind
    result: float
    value: float
    parts: dict[str, float]
    axis: str | None = None
    a: NDArray[np.float64] = field(default_factory=lambda: _NO_TERMS, repr=False)
    b: NDArray[np.float64] = field(default_factory=lambda: _NO_TERMS, repr=False)

    def largest_terms(self, count: int) -> tuple[list[int], float]:
        """Where the ``count`` products of largest magnitude stand, in order, and the sum of all others."""
        products = self.a * self.b
        chosen = np.sort(np.argsort(-np.abs(products), kind="stable")[:count])
        return chosen.tolist(), float(products.sum() - products[chosen].sum())


@torch.inference_mode()
def worked(explanation: Explanation, name: str, index: tuple[int, ...]) -> Worked:
    """The entry at ``index`` (as the tensor's axes: head first where it has one). ``ConfigError`` for none there is."""
    tensor = explanation.tensor(name)
    if len(index) != tensor.dim() or not all(0 <= i < n for i, n in zip(index, tensor.shape, strict=True)):
        raise ConfigError(
            f"{name} has the shape {tuple(tensor.shape)} and no entry {tuple(index)}; expected an index below it"
        )
    work = _Entry(explanation, name, tuple(index), float(tensor[tuple(index)]))
    return work.changed() or work.worked()


class _Entry:
    """Where an entry stands, and its parents."""

    def __init__(self, explanation: Explanation, name: str, index: tuple[int, ...], value: float) -> None:
        self._explanation = explanation
        self._reference = explanation.reference
        self._name, self._index, self._value = name, index, value
        self._layer = int(name.split(".")[1]) if name.startswith("blocks.") else None
        self._part = name.rpartition(".")[2]

    def changed(self) -> Worked | None:
        """Of what a change put there; None where there is none."""
        if self._layer is None or self._part not in ("heads", "mlp_output"):
            return None
        place = Place(self._layer, self._index[0] if self._part == "heads" else MLP)
        if place not in self._explanation.changes:
            return None
        return self._made("changed", self._value, {})

    def worked(self) -> Worked:
        if self._part.endswith("norm"):
            return self._norm()
        if self._part in ("q", "k", "v"):
            return self._projection()
        if self._part == "input" and self._layer:
            return self._sum_of(f"blocks.{self._layer - 1}.middle", f"blocks.{self._layer - 1}.mlp_output")
        found: Worked = getattr(self, f"_{self._part}")()
        return found

    def _embedding(self) -> Worked:
        t, d = self._index
        row = self._reference.E[int(self._explanation.tokens[t]), d]
        position = self._reference.parameters["position_embedding.weight"][t, d]
        return self._sum({"E": float(row), "P": float(position)})

    _input = _embedding

    def _norm(self) -> Worked:
        t, d = self._index
        source = {"attention_norm": "input", "mlp_norm": "middle"}.get(self._part)
        x_D = (self._of(source) if source else self._explanation.kept["residual"])[t].double()
        prefix = self._name
        parts = {
            "x": float(x_D[d]),
            "mean": float(x_D.mean()),
            "variance": float(x_D.var(correction=0)),
            "epsilon": self._reference.config.layer_norm_epsilon,
            "gamma": float(self._reference.parameters[f"{prefix}.weight"][d]),
            "beta": float(self._reference.parameters[f"{prefix}.bias"][d]),
        }
        shifted = parts["x"] - parts["mean"]
        result = parts["gamma"] * shifted / math.sqrt(parts["variance"] + parts["epsilon"]) + parts["beta"]
        return self._made("norm", result, parts)

    def _projection(self) -> Worked:
        head, t, j = self._index
        K = self._reference.config.head_width
        row = "qkv".index(self._part) * self._reference.config.n_embd + head * K + j
        return self._linear(self._of("attention_norm")[t], "attention.qkv", row, "D")

    def _scores(self) -> Worked:
        head, t, s = self._index
        q_K, k_K = self._of("q")[head, t], self._of("k")[head, s]
        return self._dot(q_K, k_K, "K", {"divisor": math.sqrt(len(q_K))})

    def _attention(self) -> Worked:
        head, t, s = self._index
        if s > t:
            return self._made("masked", 0.0, {})
        scores = self._of("scores")[head, t, : t + 1].double()
        largest = scores.max()
        total = float((scores - largest).exp().sum())
        parts = {"score": float(scores[s]), "max": float(largest), "sum": total}
        return self._made("softmax", math.exp(parts["score"] - parts["max"]) / total, parts)

    def _heads(self) -> Worked:
        head, t, j = self._index
        return self._dot(self._of("attention")[head, t, : t + 1], self._of("v")[head, : t + 1, j], "T", {})

    def _head_outputs(self) -> Worked:
        head, t, d = self._index
        a_K = self._of("heads")[head, t]
        W_0 = self._reference.of_block(self._layer_number, "attention.output.weight")
        return self._dot(a_K, W_0[d, head * len(a_K) : (head + 1) * len(a_K)], "K", {})

    def _attention_output(self) -> Worked:
        t, d = self._index
        return self._linear(self._of("heads")[:, t].flatten(), "attention.output", d, "D")

    def _middle(self) -> Worked:
        return self._sum_of(self._full("input"), self._full("attention_output"))

    def _mlp_up(self) -> Worked:
        t, f = self._index
        return self._linear(self._of("mlp_norm")[t], "mlp.up", f, "D")

    def _mlp_gelu(self) -> Worked:
        z = float(self._of("mlp_up")[self._index])
        result = 0.5 * z * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)))
        return self._made("gelu", result, {"z": z})

    def _mlp_output(self) -> Worked:
        t, d = self._index
        return self._linear(self._of("mlp_gelu")[t], "mlp.down", d, "F")

    def _output(self) -> Worked:
        return self._sum_of(self._full("middle"), self._full("mlp_output"))

    def _logits(self) -> Worked:
        t, v = self._index
        return self._dot(self._explanation.kept["final_norm"][t], self._reference.E[v], "D", {})

    @property
    def _layer_number(self) -> int:
        assert self._layer is not None
        return self._layer

    def _full(self, part: str) -> str:
        return f"blocks.{self._layer}.{part}"

    def _of(self, part: str) -> Tensor:
        return self._explanation.tensor(self._full(part))

    def _linear(self, x: Tensor, matrix: str, row: int, axis: str) -> Worked:
        weight = self._reference.of_block(self._layer_number, f"{matrix}.weight")[row]
        bias = self._reference.of_block(self._layer_number, f"{matrix}.bias")[row]
        return self._dot(x, weight, axis, {"bias": float(bias)})

    def _dot(self, a: Tensor, b: Tensor, axis: str, parts: dict[str, float]) -> Worked:
        a_n, b_n = (x.double().cpu().numpy() for x in (a, b))
        result = (float(a_n @ b_n) + parts.get("bias", 0.0)) / parts.get("divisor", 1.0)
        return self._made("dot", result, parts, axis=axis, a=a_n, b=b_n)

    def _sum_of(self, *names: str) -> Worked:
        return self._sum(
            {name.rpartition(".")[2]: float(self._explanation.tensor(name)[self._index]) for name in names}
        )

    def _sum(self, parts: dict[str, float]) -> Worked:
        return self._made("sum", math.fsum(parts.values()), parts)

    def _made(self, kind: Kind, result: float, parts: dict[str, float], **terms: Any) -> Worked:
        return Worked(self._name, self._index, kind, result, self._value, parts, **terms)
