"""x Wᵀ + b, the step that explanations spend their time in, by whichever library of torch's is the quicker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def linear(
    x: Float[Tensor, "*more n"], weight: Float[Tensor, "m n"], bias: Float[Tensor, " m"] | None = None
) -> Float[Tensor, "*more m"]:
    """``F.linear``, without a gradient.

    In float32 on a CPU torch gives it to MKL, which on AMD's processors takes two to three times as long as oneDNN. torch
    has that as well, and uses it for compiled models: it is asked directly, where this torch was built with it.
    """
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if has_onednn and x.device.type == "cpu" and x.dtype == torch.float32:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return F.linear(x, weight, bias)
