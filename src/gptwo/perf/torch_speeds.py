"""How fast the steps of training are on this CPU: products by their shapes, attention by its length, and the rest.

Each is measured as ``model/`` runs it: the same functions, forward and backward.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from gptwo.base.memory import keep_freed_memory
from gptwo.config import GPT2Config
from gptwo.costs import query_key_pairs
from gptwo.model import GPT2, products
from gptwo.model.gelu import gelu, gelu_again
from gptwo.perf.clock import Clock, Work, host_clock, least_seconds

# Rows and widths D of a block's products, between which a plan interpolates.
_ROWS, _WIDTHS = (64, 256, 1024), (128, 384, 1024)
_LENGTHS = (64, 256, 1024)
_HEAD_WIDTH, _HEADS = 64, 8
# Values of an element-wise step: more than a core's own cache holds, as a micro-batch's are.
_VALUES = (2048, 1024)
_PARAMETERS = 1 << 24


def torch_speeds(*, budget_s: float) -> dict[str, Any]:
    """By name:

    products    rows, widths, and for "forward", "input_gradient", "weight_gradient" FLOP/s [rows][widths] of a block's
                four products together
    attention   tokens, and FLOP/s of "forward" and "backward", of the causal half: the backward has five halves of it
    per_value   seconds for a value of "norm", "norm_backward", "gelu", "gelu_backward", "softmax", "add", and for a
                parameter of "adamw"
    layer_s, step_s   what a layer and a step cost beside their arithmetic, forward and backward
    """
    # As training does: pages that are given back and taken again would be measured, too.
    keep_freed_memory()
    clock = host_clock(torch.device("cpu"))
    with torch.enable_grad():
        return {
            "products": _products(clock, budget_s / 2),
            "attention": _attention(clock, budget_s / 6),
            "per_value": _per_value(clock, budget_s / 6),
            **_overheads(clock, budget_s / 6),
        }


def _products(clock: Clock, budget_s: float) -> dict[str, Any]:
    kinds = ("forward", "input_gradient", "weight_gradient")
    found: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    for rows in _ROWS:
        for kind in kinds:
            found[kind].append([])
        for width in _WIDTHS:
            works = _block_products(rows, width)
            # Four products of each kind, of 12 D² weights together.
            least = least_seconds(works, clock, budget_s=budget_s / (len(_ROWS) * len(_WIDTHS)))
            for i, kind in enumerate(kinds):
                found[kind][-1].append(24 * rows * width * width / sum(least[i::3]))
    return {"rows": list(_ROWS), "widths": list(_WIDTHS), **found}


def _block_products(rows: int, width: int) -> list[Work]:
    """Forward, gradient of the input and of the weight of each of a block's four products, in this order."""
    works: list[Work] = []
    for inputs, outputs in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
        x, w, dy = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        works += [
            partial(products.linear, x, w, None),
            partial(products.input_gradient, dy, w),
            partial(torch.mm, dy.t(), x),
        ]
    return works


def _attention(clock: Clock, budget_s: float) -> dict[str, Any]:
    forward, backward = [], []
    for length in _LENGTHS:
        heads = _HEADS * max(1, 256 // length)
        q, k, v = (torch.randn(1, heads, length, _HEAD_WIDTH, requires_grad=True) for _ in range(3))
        above = torch.randn(1, heads, length, _HEAD_WIDTH)

        def attend(q: Any = q, k: Any = k, v: Any = v) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        def both(q: Any = q, k: Any = k, v: Any = v, above: Any = above, attend: Any = attend) -> None:
            torch.autograd.grad(attend(), (q, k, v), above)

        alone, together = least_seconds([attend, both], clock, budget_s=budget_s / len(_LENGTHS))
        flops = 4 * heads * _HEAD_WIDTH * query_key_pairs(length, 0)
        forward.append(flops / alone)
        backward.append(2.5 * flops / (together - alone))
    return {"tokens": list(_LENGTHS), "forward": forward, "backward": backward}


def _per_value(clock: Clock, budget_s: float) -> dict[str, float]:
    # Where the slope of GELU is 1: the gradients, which it multiplies in place, stay as they are.
    x, y = torch.rand(_VALUES) + 8, torch.ones(_VALUES)
    gain, shift = torch.ones(_VALUES[1]), torch.zeros(_VALUES[1])
    _, mean, rstd = torch.native_layer_norm(x, x.shape[1:], gain, shift, 1e-5)
    parameter = torch.zeros(_PARAMETERS, requires_grad=True)
    gradient, one = torch.zeros_like(parameter), torch.ones(())
    parameter.grad = gradient
    optimizer = torch.optim.AdamW([parameter], fused=True)
    logits = torch.randn(_VALUES)

    def softmax() -> None:
        torch.ops.aten._log_softmax.out(logits, 1, False, out=logits).exp_()

    def adamw() -> None:
        # As the step does: the norm of the gradient, its division and clip, the update.
        torch.nn.utils.get_total_norm([gradient])
        torch._foreach_mul_([gradient], one)
        optimizer.step()

    works: dict[str, Work] = {
        "norm": lambda: torch.native_layer_norm(x, x.shape[1:], gain, shift, 1e-5),
        "norm_backward": lambda: torch.ops.aten.native_layer_norm_backward(
            y, x, x.shape[1:], mean, rstd, gain, shift, [True, True, True]
        ),
        "gelu": lambda: gelu(x),
        "gelu_backward": lambda: gelu_again(x, y),
        "softmax": softmax,
        "add": lambda: x + y,
        "adamw": adamw,
    }
    with torch.no_grad():
        least = least_seconds([*works.values()], clock, budget_s=budget_s)
    values = _VALUES[0] * _VALUES[1]
    counts = [values] * (len(works) - 1) + [_PARAMETERS]
    return {name: took / count for name, took, count in zip(works, least, counts, strict=True)}


def _overheads(clock: Clock, budget_s: float) -> dict[str, float]:
    """Of steps of models with next to no arithmetic, what a layer more costs, and what is left without any."""
    works, layers = [], (2, 10)
    for count in layers:
        config = GPT2Config(n_layer=count, n_head=1, n_embd=8, context=8, vocab_size=8, dropout=0.0)
        model = GPT2(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        tokens = torch.zeros(1, 8, dtype=torch.long)

        def step(model: GPT2 = model, optimizer: Any = optimizer, tokens: Any = tokens) -> None:
            optimizer.zero_grad(set_to_none=True)
            model.loss(tokens, tokens, reduction="sum").backward()  # type: ignore[no-untyped-call] # torch's
            torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            optimizer.step()

        works.append(step)
    few, many = least_seconds(works, clock, budget_s=budget_s)
    layer_s = (many - few) / (layers[1] - layers[0])
    return {"layer_s": layer_s, "step_s": max(0.0, few - layers[0] * layer_s)}
