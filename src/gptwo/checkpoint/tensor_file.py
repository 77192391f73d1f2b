"""The safetensors format, written as a stream: one tensor in memory at a time, hashed and checked by the caller.

The safetensors library writes a path or one bytes object: the first hides the system's error number and hashes
nothing, the second doubles the memory. Reading is the library's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from gptwo.checkpoint.tensor_header import encoded_header, open_tensor_file

_DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def tensor_file_chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file of these tensors, with metadata {"format": "pt"} as transformers requires.

    Tensors may lie on any device and be views (a transposed one costs no memory until its turn).
    """
    # The library's order: widest elements first, so that each tensor is aligned to its own element.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    described = {
        name: (
            _DTYPE_NAMES[tensors[name].dtype],
            tuple(tensors[name].shape),
            tensors[name].numel() * tensors[name].element_size(),
        )
        for name in names
    }
    yield encoded_header(described, {"format": "pt"})
    for name in names:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            yield flat.view(torch.uint8).numpy().data


def read_tensor_file(path: Path, *, device: torch.device | str) -> dict[str, Tensor]:
    """Every tensor of the file, in memory of its own; errors as ``open_tensor_file``."""
    with open_tensor_file(path, "pt") as file:
        return {name: file.get_tensor(name).to(device, copy=True) for name in file.keys()}  # noqa: SIM118
