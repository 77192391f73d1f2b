"""What a plan multiplies up: seconds of products, attention and the rest, from what was measured of a device.

A CPU of this machine has been measured step by step (``Ceilings.speeds``). Of another device only its ceilings are
known: products then run at the speed of a model's products, what is element by element at that of a copy, and each
operation waits for its launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from gptwo.config import GPT2Config
from gptwo.costs import WeightFormat, matrix_bytes, matrix_format
from gptwo.perf.ceilings import Ceilings

Direction = Literal["forward", "input_gradient", "weight_gradient"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
# Bytes that an element-wise step moves for each value in fp32: what it reads and writes. AdamW with the norm and the
# clip: the gradient read three times and written, weight and two moments read and written.
_BYTES_PER_VALUE = {
    "norm": 8, "norm_backward": 16, "gelu": 8, "gelu_backward": 16, "add": 12, "adamw": 40
}  # fmt: skip
# Of the head's logits: the softmax, and its gradient in their place.
_BYTES_PER_LOGIT = 16
# Operations of torch, forward and backward, of a layer and of a step beside its layers.
_OPERATIONS_OF_LAYER, _OPERATIONS_OF_STEP = 60, 100
# The same of a forward pass alone.
FORWARD_OPERATIONS_OF_LAYER, FORWARD_OPERATIONS = 25, 10
# The native engine: of so many rows or fewer it matters what keeps the weights; of more, how wide they are.
FEW_ROWS = 16


def matmul_flops_per_s(ceilings: Ceilings, dtype: str) -> float:
    """The ceiling of products in ``dtype``; fp32's where it has none of its own."""
    known = ceilings.matmul_flops_per_s
    return known.get(dtype, known["fp32"])


def operation_s(ceilings: Ceilings) -> float:
    """Seconds of an operation on next to nothing: the host's dispatch or the device's launch, whichever is longer."""
    return max(ceilings.dispatch_s, ceilings.launch_s or 0.0)


class TorchSpeeds:
    """Of torch on the device of ``ceilings``, in ``dtype``."""

    def __init__(self, ceilings: Ceilings, dtype: str) -> None:
        self._ceilings = ceilings
        self._dtype = dtype
        measured = (ceilings.speeds or {}).get("torch")
        # What was measured is fp32.
        self._measured: dict[str, Any] | None = measured if dtype == "fp32" else None

    def product_s(self, flops: float, *, rows: int, width: int, direction: Direction = "forward") -> float:
        """Seconds of products with so many rows, of a block of width D."""
        if self._measured is None:
            known = [
                speeds.get(self._dtype, speeds["fp32"])
                for name, speeds in self._ceilings.model_matmul_flops_per_s.items()
                if name != "head"
            ]
            return flops / (sum(known) / len(known))
        table = self._measured["products"]
        counts, by_row = table["rows"], [_between(table["widths"], one, width) for one in table[direction]]
        if direction == "forward":
            counts, by_row = table["few_rows"] + counts, table["forward_few"] + by_row
        return flops / _between(counts, by_row, rows)

    def head_s(self, rows: int, *, rows_at_once: int, vocabulary: int, width: int) -> float:
        """Seconds of the head of a training step, forward and backward, over so many rows."""
        logits = rows * vocabulary
        if self._measured is None:
            products = sum(
                self.product_s(2 * logits * width, rows=rows_at_once, width=width, direction=direction)
                for direction in DIRECTIONS
            )
            return products + logits * _BYTES_PER_LOGIT / self._ceilings.copy_bytes_per_s
        table = self._measured["head"]
        by_vocabulary = [_between(table["widths"], speeds, width) for speeds in table["flops_per_s"]]
        return 6 * logits * width / _between(table["vocabularies"], by_vocabulary, vocabulary)

    def attention_s(self, pairs: float, *, head_width: int, tokens: int, backward: bool = False) -> float:
        """Seconds of attention over so many pairs of query and key of all heads, in texts of so many tokens.

        4 K FLOPs a pair forward, and five halves of that backward.
        """
        if self._measured is None:
            flops = 4 * head_width * pairs * (2.5 if backward else 1)
            return flops / matmul_flops_per_s(self._ceilings, self._dtype)
        table = self._measured["attention"]
        speeds = table["backward" if backward else "forward"]
        by_width = [_between(table["tokens"], of_length, tokens) for of_length in speeds]
        return pairs * float(np.interp(head_width, table["head_widths"], by_width))

    def join_s(self, values: float) -> float:
        """Seconds of joining heads, and the gradients of Q, K and V, so many values each; 0 where attention has it."""
        return 0.0 if self._measured else 5 * values * 8 / self._ceilings.copy_bytes_per_s

    def value_s(self, what: str) -> float:
        """Seconds for a value of an element-wise step."""
        if self._measured is None:
            return _BYTES_PER_VALUE[what] / self._ceilings.copy_bytes_per_s
        return float(self._measured["per_value"][what])

    @property
    def layer_s(self) -> float:
        """What a layer costs beside its arithmetic, forward and backward."""
        if self._measured is None:
            return _OPERATIONS_OF_LAYER * operation_s(self._ceilings)
        return float(self._measured["layer_s"])

    @property
    def step_s(self) -> float:
        """What a step costs beside its layers and its arithmetic."""
        if self._measured is None:
            return _OPERATIONS_OF_STEP * operation_s(self._ceilings)
        return float(self._measured["step_s"])


class NativeSpeeds:
    """Of the native engine with weights in ``dtype`` and keys and values in ``kv``, for a model of ``config``."""

    def __init__(self, ceilings: Ceilings, config: GPT2Config, dtype: WeightFormat) -> None:
        self._ceilings = ceilings
        self._dtype = dtype
        measured = (ceilings.speeds or {}).get("native")
        self._measured: dict[str, Any] | None = measured
        D, F = config.n_embd, config.mlp_width
        self._width = D
        # Of a block, and those of its first matrix, which makes Q, K and V.
        of_each = [
            matrix_bytes(dtype, outputs, inputs) for outputs, inputs in ((3 * D, D), (D, D), (F, D), (D, F))
        ]
        self.block_bytes, self.qkv_bytes = sum(of_each), of_each[0]
        # Of a token, which decide what keeps them from one to the next.
        self._head_format = matrix_format("token_embedding.weight", dtype)
        self._all_bytes = config.n_layer * self.block_bytes + matrix_bytes(
            self._head_format, config.vocab_size, D
        )
        self._weights_per_byte = (4 * D * D + 2 * D * F) / self.block_bytes

    def weight_s(self, weight_bytes: float, rows: int) -> float:
        """Seconds of products with so many bytes of weights and so many rows (at most 256 go through together)."""
        if self._measured is None:
            arithmetic = 2 * rows * self._weights_per_byte / matmul_flops_per_s(self._ceilings, self._dtype)
            return weight_bytes * max(1 / self._ceilings.read_bytes_per_s, arithmetic)
        return weight_bytes * self._block_s_per_byte(rows)

    def head_s(self, head_bytes: float, rows: int) -> float:
        """Seconds of the head's product: one long matrix; a row more takes what it takes in the blocks."""
        if self._measured is None:
            return self.weight_s(head_bytes, rows)
        first = self._by_size([size["head_s_per_byte"] for size in self._sizes()])
        more = self._block_s_per_byte(rows, self._head_format) - self._block_s_per_byte(1, self._head_format)
        return head_bytes * (first + max(0.0, more))

    def _block_s_per_byte(self, rows: int, dtype: WeightFormat | None = None) -> float:
        sizes = self._sizes(dtype)
        counts, by_rows = sizes[0]["rows"], zip(*(size["s_per_byte"] for size in sizes), strict=True)
        widths = [size["width"] for size in sizes]
        seconds = [
            self._by_size(each)
            if count <= FEW_ROWS
            else 1 / _between(widths, [1 / one for one in each], self._width)
            for count, each in zip(counts, by_rows, strict=True)
        ]
        return float(np.interp(rows, counts, seconds))

    def prefill_attention_s(self, values: float) -> float:
        """Seconds of attention over so many pairs of query and key times D."""
        if self._measured is None:
            return 4 * values / matmul_flops_per_s(self._ceilings, "fp32")
        return values * self._by_size([size["prefill_s_per_value"] for size in self._sizes()])

    def decode_attention_s(self, kv_bytes: float) -> float:
        """Seconds of one query's attention over so many bytes of keys and values."""
        if self._measured is None:
            return kv_bytes / self._ceilings.read_bytes_per_s
        return kv_bytes * self._by_size([size["decode_s_per_byte"] for size in self._sizes()])

    @property
    def layer_s(self) -> float:
        """What a layer costs beside its arithmetic: its barriers."""
        return float(self._measured["layer_s"]) if self._measured else 7 * (self._ceilings.launch_s or 0.0)

    @property
    def call_s(self) -> float:
        """What a pass costs in Python."""
        return float(self._measured["call_s"]) if self._measured else 0.0

    def _sizes(self, dtype: WeightFormat | None = None) -> list[dict[str, Any]]:
        assert self._measured is not None
        found: list[dict[str, Any]] = self._measured["formats"][dtype or self._dtype]
        return found

    def _by_size(self, each: Sequence[float]) -> float:
        """Between the models that were measured, by the bytes of the weights: from the caches to far past them."""
        return _between([size["bytes"] for size in self._sizes()], each, self._all_bytes)


def _between(places: Sequence[float], values: Sequence[float], place: float) -> float:
    """Linear over the logarithm of the place; beyond the ends, the value at the end."""
    return float(np.interp(np.log(place), np.log(places), values))
