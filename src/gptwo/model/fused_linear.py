"""A linear layer with what stands before it, as one function with a backward pass by hand.

    Y = W LN(x) + b        Y = W GELU(x) + b        Y = W x + b

It keeps x alone for the backward pass, and computes LN(x) or GELU(x), which are cheap, once more; autograd keeps both.
Where it does not apply, the layers are called one by one, which is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gptwo.model import products
from gptwo.model.gelu import gelu, gelu_again

if TYPE_CHECKING:
    from jaxtyping import Float


# Values of x from which on it pays: below, memory is no matter, and Python takes longer than what is saved.
_SMALLEST = 1 << 17


def applies(x: Tensor, *modules: nn.Module) -> bool:
    """Whether these layers are fused: on a CPU, in float32 or float64, by eager torch, when x is large enough to gain.

    A module that somebody replaced or hooked is left to do what it was made to do.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() >= _SMALLEST
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and all(
            type(module) in (nn.Linear, nn.LayerNorm, nn.Embedding)
            and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
            for module in modules
        )
    )


def linear(x: Float[Tensor, "*N I"], layer: nn.Module) -> Float[Tensor, "*N O"]:
    """W x + b."""
    if applies(x, layer):
        return _fused(x, layer.weight, layer.bias, None, None, "nothing", 0.0)
    y: Tensor = layer(x)
    return y


def norm_linear(x: Float[Tensor, "*N I"], norm: nn.Module, layer: nn.Module) -> Float[Tensor, "*N O"]:
    """W LN(x) + b."""
    if applies(x, norm, layer):
        return _fused(x, layer.weight, layer.bias, norm.weight, norm.bias, "norm", norm.eps)
    y: Tensor = layer(norm(x))
    return y


def gelu_linear(x: Float[Tensor, "*N I"], layer: nn.Module) -> Float[Tensor, "*N O"]:
    """W GELU(x) + b, GELU in its tanh form."""
    if applies(x, layer):
        return _fused(x, layer.weight, layer.bias, None, None, "gelu", 0.0)
    y: Tensor = layer(F.gelu(x, approximate="tanh"))
    return y


def _fused(*arguments: Any) -> Tensor:
    y: Tensor = _FusedLinear.apply(*arguments)  # type: ignore[no-untyped-call] # torch leaves it unannotated
    return y


class _FusedLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes no keywords
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        gain: Tensor | None,
        shift: Tensor | None,
        before: Literal["norm", "gelu", "nothing"],
        epsilon: float,
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        mean = rstd = None
        h_NI = x_NI
        if before == "norm":
            h_NI, mean, rstd = torch.native_layer_norm(x_NI, x_NI.shape[1:], gain, shift, epsilon)
        elif before == "gelu":
            h_NI = gelu(x_NI)
        ctx.save_for_backward(x_NI, weight, gain, shift, mean, rstd)
        ctx.before, ctx.epsilon = before, epsilon
        return products.linear(h_NI, weight, bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight, gain, shift, mean, rstd = ctx.saved_tensors
        of_x, of_weight, of_bias, of_gain, of_shift = ctx.needs_input_grad[:5]
        dy_NO = dy.reshape(-1, dy.shape[-1])
        dh_NI = products.input_gradient(dy_NO, weight) if of_x or of_gain or of_shift else None
        h_NI = x_NI
        if ctx.before == "gelu":
            # Here dh_NI becomes dx.
            h_NI = gelu(x_NI) if dh_NI is None else gelu_again(x_NI, dh_NI)
        elif ctx.before == "norm" and of_weight:
            h_NI = torch.native_layer_norm(x_NI, x_NI.shape[1:], gain, shift, ctx.epsilon)[0]
        dW = dy_NO.t() @ h_NI if of_weight else None
        db = dy_NO.sum(0) if of_bias else None
        dx, dgain, dshift = dh_NI, None, None
        if ctx.before == "norm" and dh_NI is not None:
            dx, dgain, dshift = torch.ops.aten.native_layer_norm_backward(
                dh_NI, x_NI, x_NI.shape[1:], mean, rstd, gain, shift, [of_x, of_gain, of_shift]
            )
        return (dx if dx is None else dx.view(*dy.shape[:-1], -1)), dW, db, dgain, dshift, None, None
