"""How fast the steps of training are on this CPU: products by their shapes, attention, the head, and the rest.

Each is measured as ``model/`` runs it: the same functions, forward and backward. Medians, since a run has them, too.
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
from gptwo.model.head import summed_cross_entropy
from gptwo.perf.clock import Clock, Work, host_clock, typical_seconds

# Rows and widths D of a block's products, between which a plan interpolates.
_ROWS, _WIDTHS = (64, 256, 1024), (128, 384, 1024)
# Rows of a token that is written, of one text or of several, by weights that no cache keeps: those of the widest block.
_FEW_ROWS = (1, 8, 32)
_LENGTHS, _HEAD_WIDTHS, _HEADS = (64, 256, 1024), (32, 64, 128), 8
# Vocabularies, and rows of the head for each: where it takes several pieces of them, two.
_VOCABULARIES = {4096: 1024, 50257: 332}
# Values of an element-wise step: more than a core's own cache holds, as a micro-batch's are.
_VALUES = (2048, 1024)
_PARAMETERS = 1 << 24


def torch_speeds(*, budget_s: float) -> dict[str, Any]:
    """By name:

    products    rows, widths, and for "forward", "input_gradient", "weight_gradient" FLOP/s [rows][widths] of a block's
                four products together; few_rows, and FLOP/s "forward_few" [few_rows] of a wide one
    head        vocabularies, widths, and FLOP/s [vocabularies][widths] of the head, which computes its loss, softmax
                and gradients at once
    attention   head_widths, tokens, and for "forward" and "backward" seconds [head_widths][tokens] for each head and
                each pair of a query and a key that it sees, with the cutting and joining of Q, K and V
    per_value   seconds for a value of "norm", "norm_backward", "gelu", "gelu_backward", "add", and for a parameter of
                "adamw"
    layer_s, step_s   what a layer and a step cost beside their arithmetic, forward and backward
    """
    # As training does: pages that are given back and taken again would be measured, too.
    keep_freed_memory()
    clock = host_clock(torch.device("cpu"))
    with torch.enable_grad():
        return {
            "products": _products(clock, budget_s / 2),
            "head": _head(clock, budget_s / 6),
            "attention": _attention(clock, budget_s / 6),
            "per_value": _per_value(clock, budget_s / 6),
            **_overheads(clock, budget_s / 6),
        }


def _products(clock: Clock, budget_s: float) -> dict[str, Any]:
    kinds = ("forward", "input_gradient", "weight_gradient")
    found: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    share, few = budget_s / (len(_ROWS) * len(_WIDTHS) + len(_FEW_ROWS)), []
    for rows in _ROWS:
        for kind in kinds:
            found[kind].append([])
        for width in _WIDTHS:
            works = _block_products(rows, width)
            # Four products of each kind, of 12 D² weights together.
            took = typical_seconds(works, clock, budget_s=share)
            for i, kind in enumerate(kinds):
                found[kind][-1].append(24 * rows * width * width / sum(took[i::3]))
    for rows in _FEW_ROWS:
        width = _WIDTHS[-1]
        with torch.inference_mode():
            took = typical_seconds(_engine_products(rows, width), clock, budget_s=share)
        few.append(24 * rows * width * width / sum(took))
    return {
        "rows": list(_ROWS),
        "widths": list(_WIDTHS),
        **found,
        "few_rows": list(_FEW_ROWS),
        "forward_few": few,
    }


def _shapes(width: int) -> list[tuple[int, int]]:
    """Inputs and outputs of a block's four products."""
    return [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]


def _engine_products(rows: int, width: int) -> list[Work]:
    """A block's four products as PyTorch's engine computes them, which does not go through oneDNN."""
    return [
        partial(F.linear, torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.zeros(outputs))
        for inputs, outputs in _shapes(width)
    ]


def _block_products(rows: int, width: int) -> list[Work]:
    """Forward, gradient of the input and of the weight of each of a block's four products, in this order."""
    works: list[Work] = []
    for inputs, outputs in _shapes(width):
        x, w, dy = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        works += [
            partial(products.linear, x, w, None),
            partial(products.input_gradient, dy, w),
            partial(torch.mm, dy.t(), x),
        ]
    return works


def _head(clock: Clock, budget_s: float) -> dict[str, Any]:
    flops: list[list[float]] = []
    for vocabulary, rows in _VOCABULARIES.items():
        works: list[Work] = []
        for width in _WIDTHS:
            x = torch.randn(rows, width, requires_grad=True)
            E = (torch.randn(vocabulary, width) / width).requires_grad_()
            targets = torch.zeros(rows, dtype=torch.long)
            works.append(partial(_step_of_head, x, E, targets))
        took = typical_seconds(works, clock, budget_s=budget_s / len(_VOCABULARIES))
        flops.append([6 * rows * vocabulary * width / one for width, one in zip(_WIDTHS, took, strict=True)])
    return {"vocabularies": list(_VOCABULARIES), "widths": list(_WIDTHS), "flops_per_s": flops}


def _step_of_head(x: torch.Tensor, E: torch.Tensor, targets: torch.Tensor) -> None:
    torch.autograd.grad(summed_cross_entropy(x, E, targets), (x, E))


def _attention(clock: Clock, budget_s: float) -> dict[str, Any]:
    found: dict[str, list[list[float]]] = {"forward": [], "backward": []}
    for head_width in _HEAD_WIDTHS:
        works: list[Work] = []
        pairs = []
        for length in _LENGTHS:
            texts = max(1, 256 // length)
            shape = (texts, length, 3, _HEADS, head_width)
            qkv, above = (
                torch.randn(shape, requires_grad=True),
                torch.randn(texts, length, _HEADS * head_width),
            )
            works += [partial(_attend, qkv), partial(_attend_back, qkv, above)]
            pairs.append(texts * _HEADS * query_key_pairs(length, 0))
        took = typical_seconds(works, clock, budget_s=budget_s / len(_HEAD_WIDTHS))
        forward, both = took[::2], took[1::2]
        found["forward"].append([one / n for one, n in zip(forward, pairs, strict=True)])
        found["backward"].append(
            [max(0.0, two - one) / n for one, two, n in zip(forward, both, pairs, strict=True)]
        )
    return {"head_widths": list(_HEAD_WIDTHS), "tokens": list(_LENGTHS), **found}


def _attend(qkv_BT3HK: torch.Tensor) -> torch.Tensor:
    """From the product's result to the next one's input, as ``model/gpt2.py`` has it."""
    q, k, v = qkv_BT3HK.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def _attend_back(qkv_BT3HK: torch.Tensor, above_BTD: torch.Tensor) -> None:
    torch.autograd.grad(_attend(qkv_BT3HK), qkv_BT3HK, above_BTD)


def _per_value(clock: Clock, budget_s: float) -> dict[str, float]:
    # Where the slope of GELU is 1: the gradients, which it multiplies in place, stay as they are.
    x, y = torch.rand(_VALUES) + 8, torch.ones(_VALUES)
    gain, shift = torch.ones(_VALUES[1]), torch.zeros(_VALUES[1])
    _, mean, rstd = torch.native_layer_norm(x, x.shape[1:], gain, shift, 1e-5)
    parameter = torch.zeros(_PARAMETERS, requires_grad=True)
    gradient, one = torch.zeros_like(parameter), torch.ones(())
    parameter.grad = gradient
    optimizer = torch.optim.AdamW([parameter], fused=True)

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
        "add": lambda: x + y,
        "adamw": adamw,
    }
    with torch.no_grad():
        seconds = typical_seconds([*works.values()], clock, budget_s=budget_s)
    values = _VALUES[0] * _VALUES[1]
    counts = [values] * (len(works) - 1) + [_PARAMETERS]
    return {name: took / count for name, took, count in zip(works, seconds, counts, strict=True)}


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
    few, many = typical_seconds(works, clock, budget_s=budget_s)
    layer_s = (many - few) / (layers[1] - layers[0])
    return {"layer_s": layer_s, "step_s": max(0.0, few - layers[0] * layer_s)}
