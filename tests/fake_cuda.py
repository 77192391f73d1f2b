"""Tensors on ``cuda:0`` on any machine: shapes and devices, no data and no arithmetic, and a stray CPU tensor raises.

Torch's ``FakeTensorMode`` checks at every operation that all tensors are on one device, as a GPU would (paper §8).
Alone it cannot run a backward pass where there is no GPU: autograd's engine, in C++, asks the tensors for their
device and then asks the CUDA runtime for a stream. So the engine is told ``meta`` here, a device without streams, and
everything in Python still sees ``cuda:0``. C++ that makes a tensor like another one then says ``meta`` too, and is
given ``cuda:0``. A machine with a GPU runs the tests in the same way.

Torch lets a CPU tensor index a CUDA one, and copies it there each time; here that raises as well (paper §7.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda", 0)
_META = torch.device("meta")
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_WHICH_DEVICE = torch.ops.prim.device.default


class _MetaMeansCuda(FakeTensorMode):
    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == _META:
            kwargs["device"] = DEVICE
        if func not in _COPIES:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, FakeTensor)]
            devices = {tensor.device.type for tensor in tensors if tensor.dim() > 0}
            if len(devices) > 1:
                raise RuntimeError(f"{func} on tensors of {' and '.join(sorted(devices))}")
        return super().dispatch(func, types, args, kwargs)


@contextmanager
def fake_cuda() -> Iterator[torch.device]:
    """Inside, tensors made on the yielded device are fake, and so is everything computed from them."""

    def device_in_cpp(args: tuple[Any, ...]) -> torch.device:
        device: torch.device = args[0].device
        return _META if device.type == DEVICE.type else device

    dispatch = FakeTensor.__torch_dispatch__.__func__

    def torch_dispatch(cls: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _WHICH_DEVICE:
            return device_in_cpp(args)
        return dispatch(cls, func, types, args, kwargs or {})

    with (
        patch.object(FakeTensor, "__torch_dispatch__", classmethod(torch_dispatch)),
        patch.dict(fake_tensor._DISPATCH_META_HANDLERS, {_WHICH_DEVICE: device_in_cpp}),
        _MetaMeansCuda(),
    ):
        yield DEVICE
