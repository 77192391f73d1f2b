"""Muon for the hidden matrices and AdamW for everything else, as one optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

if TYPE_CHECKING:
    from jaxtyping import Float

Coefficients = tuple[tuple[float, float, float], ...]

# Polar Express (Amsel, Persson, Musco & Gower 2025) for three iterations: each triple is the best odd quintic for what
# the ones before it leave of the singular values in [0.01, 1]. They end in 1 ± 0.27, where torch.optim.Muon's five
# iterations end in 0.7 … 1.2, for three fifths of the work.
POLAR_EXPRESS: Coefficients = (
    (8.093368512548258, -23.62043032882427, 17.446151749836243),
    (3.636585554259041, -2.7219267466089083, 0.5365462883273614),
    (2.661299985777099, -1.9771545218846258, 0.4526164069964013),
)
# The norm bounds the largest singular value; the polynomials diverge above 1, so rounding must not lift it there.
_MARGIN = 1.01
_EPSILON = 1e-7


def orthogonalise(x_Nrc: Float[Tensor, "N r c"], coefficients: Coefficients) -> Float[Tensor, "N r c"]:
    """Nearly U Vᵀ of each X = U Σ Vᵀ: X ← a X + (b G + c G²) X with G = X Xᵀ, once per triple (a, b, c).

    Starts from X / (1.01 ‖X‖_F). Wants r ≤ c, since the work is 4 r² c + 2 r³ FLOPs a matrix and iteration. In the
    dtype of ``x_Nrc``.
    """
    x_Nrc = x_Nrc / (x_Nrc.norm(dim=(1, 2), keepdim=True) * _MARGIN + _EPSILON)
    for a, b, c in coefficients:
        gram_Nrr = torch.bmm(x_Nrc, x_Nrc.mT)
        polynomial_Nrr = torch.baddbmm(gram_Nrr, gram_Nrr, gram_Nrr, beta=b, alpha=c)
        x_Nrc = torch.baddbmm(x_Nrc, polynomial_Nrr, x_Nrc, beta=a)
    return x_Nrc


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the groups with ``pieces``, fused AdamW for the others.

    For a matrix W with gradient G, momentum μ, learning rate η and decay λ:
        M ← μ M + (1 - μ) G,   O = orthogonalise((1 - μ) G + μ M),   W ← (1 - η λ) W - η √max(1, rows / columns) O
    A group's ``pieces`` cuts each of its matrices into so many equal blocks of rows, each orthogonalised by itself:
    Q, K and V are stored as one matrix and are three. Matrices of one shape run as one batch, in ``dtype``.
    State: ``momentum_buffer``; AdamW's ``step``, ``exp_avg``, ``exp_avg_sq``.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        momentum: float = 0.95,
        coefficients: Coefficients = POLAR_EXPRESS,
        dtype: torch.dtype = torch.float32,
        fused: bool = True,
    ) -> None:
        self._coefficients = coefficients
        self._dtype = dtype
        self._fused = fused
        super().__init__(
            groups, {"lr": lr, "betas": betas, "momentum": momentum, "weight_decay": 0.0, "pieces": 0}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override] # no closure here
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise NotImplementedError("Muon takes no closure")
        self._step_matrices([group for group in self.param_groups if group["pieces"]])
        for group in self.param_groups:
            if not group["pieces"]:
                self._step_adamw(group)

    def _step_matrices(self, groups: list[dict[str, Any]]) -> None:
        batches: dict[tuple[int, ...], list[tuple[Tensor, Tensor, float]]] = {}
        for group in groups:
            lr, momentum = group["lr"], group["momentum"]
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            buffers = [self._state_of(p, "momentum_buffer")["momentum_buffer"] for p in parameters]
            if not parameters:
                continue
            torch._foreach_lerp_(buffers, gradients, 1 - momentum)
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
            directions = torch._foreach_lerp(gradients, buffers, momentum)
            for parameter, direction in zip(parameters, directions, strict=True):
                rows, columns = parameter.shape[0] // group["pieces"], parameter.shape[1]
                scale = lr * math.sqrt(max(1.0, rows / columns))
                # The orthogonalisation commutes with the transpose, and costs least on wide matrices.
                wide = (parameter.mT, direction.mT) if rows > columns else (parameter, direction)
                pieces = zip(
                    *(t.chunk(group["pieces"], dim=1 if rows > columns else 0) for t in wide), strict=True
                )
                shape = (min(rows, columns), max(rows, columns))
                batches.setdefault(shape, []).extend((weight, piece, scale) for weight, piece in pieces)
        for batch in batches.values():
            stacked_Nrc = torch.stack([piece for _, piece, _ in batch])
            orthogonal_Nrc = orthogonalise(stacked_Nrc.to(self._dtype), self._coefficients)
            for (weight, _, scale), direction in zip(batch, orthogonal_Nrc, strict=True):
                weight.add_(direction, alpha=-scale)

    def _step_adamw(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        states = [self._state_of(p, "step", "exp_avg", "exp_avg_sq") for p in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [p.grad for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=self._fused,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _state_of(self, parameter: Tensor, *names: str) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            for name in names:
                state[name] = (
                    torch.zeros((), device=parameter.device if self._fused else "cpu")
                    if name == "step"
                    else torch.zeros_like(parameter)
                )
        return state
