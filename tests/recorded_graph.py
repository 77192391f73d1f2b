"""A CUDA graph's meaning on the CPU: the operations of a step are recorded once, and repeated on the same memory.

As in a capture, whatever Python computed meanwhile is a constant from then on, and an operation that would read a
number back, or bring one from the host, raises. What was recorded has no results until it is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
# They wait for the device, or copy from memory that may have changed by the time of a replay.
_REFUSED = {
    _aten._local_scalar_dense.default,
    _aten.item.default,
    _aten.nonzero.default,
    _aten.equal.default,
    _aten.lift_fresh.default,
}


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _REFUSED:
            raise RuntimeError(f"{func} cannot be part of a graph")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, _tensors(result)))
        return result


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def record(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """``cuda_decode.Recorder``; unlike a graph's, the tensors that come from a replay are the caller's to keep."""
    recording = _Recording()
    with recording:
        output = step()
    if output.is_floating_point():
        output.fill_(torch.nan)

    def replay() -> Tensor:
        for func, args, kwargs, results in recording.calls:
            for held, again in zip(results, _tensors(func(*args, **kwargs)), strict=True):
                if held.data_ptr() != again.data_ptr():  # else a view, or what was written in place
                    held.copy_(again)
        return output.clone()

    return replay
