"""The safetensors format but for its data: what a file says of its tensors, written and read. No torch.

8 bytes little-endian header length, a JSON header, then the data,
https://github.com/huggingface/safetensors#format. Whether a file is whole is judged by the library.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from gptwo.base.errors import CheckpointError

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """What the header says of a tensor: its dtype by the format's name, and its bytes in the file, begin to end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a file says of its tensors, and of itself."""

    tensors: dict[str, TensorRecord]
    metadata: dict[str, str]
    data_begin: int


def encoded_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...], int]],
    metadata: Mapping[str, str],
    *,
    alignment: int = 8,
) -> bytes:
    """The beginning of a file whose data are these tensors (dtype, shape, bytes), one after another.

    The data begin at a multiple of ``alignment``.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape, size_bytes) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, offset + size_bytes],
        }
        offset += size_bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(_LENGTH.size + len(encoded)) % alignment)
    return _LENGTH.pack(len(encoded)) + encoded


@contextmanager
def open_tensor_file(path: Path, framework: Literal["pt", "numpy"]) -> Iterator[Any]:
    """The safetensors library's reader on ``path``; its tensors read the file when they are copied.

    Raises ``CheckpointError`` for a file that is missing, truncated or not safetensors.
    """
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing; expected a safetensors file; copy the folder again"
        ) from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); expected one as it was saved; copy it again"
        ) from error


def read_header(path: Path) -> TensorHeader:
    """The header of a file that is whole; errors as ``open_tensor_file``."""
    with open_tensor_file(path, "numpy"), path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header = json.loads(file.read(length))
    data_begin = _LENGTH.size + length
    metadata = header.pop("__metadata__", None) or {}
    tensors = {
        name: TensorRecord(
            one["dtype"], tuple(one["shape"]), *(data_begin + at for at in one["data_offsets"])
        )
        for name, one in header.items()
    }
    return TensorHeader(tensors, metadata, data_begin)
