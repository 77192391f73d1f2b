"""The two ends of the model that share E: the look-up of tokens, and the head with its cross entropy.

The head takes a few rows at a time, so that the N×V logits never exist in full. For a row x with target y, with
z = E x and p = softmax(z): the loss is -log p_y, dz = p - 1_y, dx = Eᵀ dz, dE = Σ dz xᵀ. All of it is computed while
the row's logits are there: nothing is kept, no product is done twice, and the backward pass only multiplies by the
gradient from above.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gptwo.model import products

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# A target that is not predicted: it adds nothing to the loss. The number is torch's and transformers' own.
NOT_PREDICTED = -100
# Values of the logits that exist at once. On a CPU they should stay in its cache: 2^23 are 32 MB.
_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 26}


def look_up(
    tokens_BT: Int[Tensor, "B T"], E_VD: Float[Tensor, "V D"]
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "V D"]]:
    """Rows of E, and E itself for the head, so that the head's gradient of E comes through here.

    The gradients of the rows are added to it in place. Autograd would fill a V×D matrix with zeros for them, and add
    the two matrices.
    """
    rows_BTD, same_VD = _LookUp.apply(tokens_BT, E_VD)  # type: ignore[no-untyped-call] # torch's
    return rows_BTD, same_VD


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens_BT: Tensor, E_VD: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(tokens_BT)
        return torch.nn.functional.embedding(tokens_BT, E_VD), E_VD.view_as(E_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, drows_BTD: Tensor, dE_VD: Tensor) -> tuple[None, Tensor]:
        (tokens_BT,) = ctx.saved_tensors
        return None, dE_VD.index_add_(0, tokens_BT.flatten(), drows_BTD.reshape(-1, dE_VD.shape[1]))


@torch.compiler.disable  # type: ignore[untyped-decorator] # torch's
def summed_cross_entropy(
    x_ND: Float[Tensor, "N D"], E_VD: Float[Tensor, "V D"], targets_N: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Σ -log softmax(E x)[target] in nats, in float32 at least, over the rows whose target is to be predicted.

    ``torch.compile`` leaves it as it is: traced, its loop would be unrolled, and autograd would keep every piece.
    """
    if not torch.is_grad_enabled():
        E_VD = E_VD.detach()  # a parameter asks for its gradient even where there is no backward pass
    if x_ND.device.type == "cpu":
        # The other rows need no product. On a GPU the host would have to wait for their number.
        predicted_N = targets_N != NOT_PREDICTED
        if not bool(predicted_N.all()):
            x_ND, targets_N = x_ND[predicted_N], targets_N[predicted_N]
    loss: Tensor = _Head.apply(x_ND, E_VD, targets_N)  # type: ignore[no-untyped-call] # torch's
    return loss


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, E_VD: Tensor, targets_N: Tensor) -> Tensor:
        of_x, of_E = ctx.needs_input_grad[:2]
        place = x_ND.device.type
        # As autocast has it: products in its dtype, what is summed over V or N in float32.
        dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else x_ND.dtype
        exact = torch.promote_types(E_VD.dtype, torch.float32)
        rows = max(1, _LOGITS.get(place, _LOGITS["cpu"]) // len(E_VD))
        loss = x_ND.new_zeros((), dtype=exact)
        dx_ND = torch.empty_like(x_ND) if of_x else None
        # Without a row there is no first chunk to fill it.
        dE_VD = (torch.empty_like if len(x_ND) else torch.zeros_like)(E_VD, dtype=exact) if of_E else None
        with torch.autocast(place, enabled=False):
            E_cast, x_cast = E_VD.to(dtype), x_ND.to(dtype)
            for first in range(0, len(x_ND), rows):
                part = slice(first, first + rows)
                y_N1 = targets_N[part, None]
                predicted_N1 = y_N1 != NOT_PREDICTED
                y_N1 = y_N1.where(predicted_N1, 0)
                z_NV = products.linear(x_cast[part], E_cast, None).to(exact)
                log_p_NV = torch.ops.aten._log_softmax.out(z_NV, 1, False, out=z_NV)
                loss -= log_p_NV.gather(1, y_N1).mul_(predicted_N1).sum()
                if not (of_x or of_E):
                    continue
                dz_NV = log_p_NV.exp_().scatter_add_(1, y_N1, log_p_NV.new_full((1, 1), -1.0).expand_as(y_N1))
                if place != "cpu":
                    dz_NV.mul_(predicted_N1)
                dz_NV = dz_NV.to(dtype)
                if dx_ND is not None:
                    dx_ND[part] = products.input_gradient(dz_NV, E_cast)
                if dE_VD is not None:
                    _add_product(dE_VD, dz_NV.t(), x_cast[part], first=first == 0)
        ctx.save_for_backward(dx_ND, dE_VD)
        ctx.dtypes = x_ND.dtype, E_VD.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        dx_ND, dE_VD = (
            None if gradient is None else gradient.to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        # The step asks for the sum's own gradient; a GPU would have to be waited for to know.
        if dloss.device.type != "cpu" or float(dloss) != 1.0:
            dx_ND = None if dx_ND is None else dx_ND * dloss
            dE_VD = None if dE_VD is None else dE_VD * dloss
        return dx_ND, dE_VD, None


def _add_product(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """total = a b the first time and += a b later; the sum over chunks stays in the dtype of ``total``."""
    if a.dtype != total.dtype:
        total.copy_(a @ b) if first else total.add_(a @ b)
    elif first:
        torch.mm(a, b, out=total)
    else:
        total.addmm_(a, b)
