"""A packed model in one safetensors file, to be mapped and run from. No torch.

The tensors have our names and lie in the order of ``packed.places``, matrices as in ``kernels.layout``: F32, BF16 or
U8. The data begin at a multiple of 64 bytes. Metadata:

    format, version   "gptwo-packed", "1"
    dtype, group      that of the blocks' matrices; weights to a scale, "32"
    source            what it was made of: a name and the hashes of its weight files, or the key of a cache
    hash              "gptwo64:0123456789abcdef" or "crc32:01234567": of all data
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptwo.base.cores import usable_cores
from gptwo.base.errors import CheckpointError, NativeLibraryError
from gptwo.checkpoint.stored import mapped_bytes
from gptwo.checkpoint.tensor_header import TensorHeader, TensorRecord, encoded_header, read_header
from gptwo.config import GPT2Config
from gptwo.infer.packed import PackedModel, matrices_of, model_in, places
from gptwo.kernels.layout import ALIGNMENT, PACKED_DTYPES, PackedDtype, packed_shape
from gptwo.kernels.rounding import GROUP

if TYPE_CHECKING:
    from gptwo.kernels.library import Kernels

FORMAT, VERSION = "gptwo-packed", "1"
_TENSOR_DTYPES: dict[PackedDtype, str] = {"fp32": "F32", "bf16": "BF16", "int8": "U8", "int4": "U8"}


class ContentHash(NamedTuple):
    """A hash of bytes, and the name it goes by in files. It tells damage, not malice."""

    name: str
    digest: Callable[[memoryview], int]

    def of(self, content: NDArray[np.uint8]) -> str:
        return f"{self.name}:{self.digest(content.data):08x}"


CRC32 = ContentHash("crc32", zlib.crc32)


def native_hash(kernels: Kernels) -> ContentHash:
    """The native library's, which is as fast as memory."""
    return ContentHash("gptwo64", kernels.content_hash)


def fastest_hash() -> ContentHash:
    """The native library's where it was built, else CRC-32: for those who have no kernels open."""
    from gptwo.kernels.library import open_kernels

    try:
        return native_hash(open_kernels(usable_cores()))
    except NativeLibraryError:
        return CRC32


def packed_chunks(
    model: PackedModel, *, source: str, content_hash: ContentHash
) -> Iterator[bytes | memoryview]:
    """The bytes of the file of ``model``."""
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": model.dtype,
        "group": str(GROUP),
        "source": source,
        "hash": content_hash.of(model.memory),
    }
    yield encoded_header(_tensors(model), metadata, alignment=ALIGNMENT)
    yield model.memory.data


def read_packed(
    path: Path, config: GPT2Config, *, source: str | None, content_hash: ContentHash
) -> PackedModel:
    """The model of the file, mapped; ``source`` None takes any. Its data are read once, by the hash.

    Raises ``CheckpointError`` for a file that is not whole, was altered, or is of another model.
    """
    header = read_header(path)
    metadata = header.metadata
    if (metadata.get("format"), metadata.get("version"), metadata.get("group")) != (
        FORMAT,
        VERSION,
        str(GROUP),
    ):
        raise CheckpointError(
            f"{path} is no {FORMAT} file of version {VERSION} and groups of {GROUP}; "
            "expected one as this gptwo writes it; make it again"
        )
    dtypes = _matrix_dtypes(header, config)
    if (
        dtypes is None
        or not _lies_in_place(header, config, dtypes)
        or source not in (None, metadata.get("source"))
    ):
        raise CheckpointError(
            f"{path} holds other tensors than the model of its config.json; expected those of one model; "
            "make it again"
        )
    data = mapped_bytes(path)[header.data_begin :]
    recorded = metadata.get("hash", "")
    name = recorded.partition(":")[0]
    known = {one.name: one for one in (CRC32, content_hash)}
    if name not in known:
        raise CheckpointError(
            f"{path} has a hash of the kind {name!r}; expected {' or '.join(known)}; "
            "make it again on this machine"
        )
    got = known[name].of(data)
    if got != recorded:
        raise CheckpointError(
            f"{path} was altered: the hash of its data is {got}; expected {recorded}; make it again"
        )
    return model_in(data, config, dtypes)


def _tensors(model: PackedModel) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """What the header says of each tensor: its type, shape and bytes."""
    dtypes = {name: matrix.dtype for name, matrix in model.matrices.items()}
    return {
        place.row.ours: (*_form(place.dtype, place.row.shape), place.end - place.begin)
        for place in places(model.config, dtypes)
    }


def _form(dtype: PackedDtype | None, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    return ("F32", shape) if dtype is None else (_TENSOR_DTYPES[dtype], packed_shape(dtype, *shape))


def _matrix_dtypes(header: TensorHeader, config: GPT2Config) -> dict[str, PackedDtype] | None:
    """How each matrix is packed; None when one is missing or of no possible form."""
    dtypes: dict[str, PackedDtype] = {}
    for row in matrices_of(config):
        record = header.tensors.get(row.ours)
        for dtype in PACKED_DTYPES:
            if record is not None and (record.dtype, record.shape) == _form(dtype, row.shape):
                dtypes[row.ours] = dtype
        if row.ours not in dtypes:
            return None
    return dtypes


def _lies_in_place(header: TensorHeader, config: GPT2Config, dtypes: dict[str, PackedDtype]) -> bool:
    """Whether the header is the very one that is written for such a model, so that the hash need not cover it."""
    begin = header.data_begin
    expected = {
        place.row.ours: TensorRecord(
            *_form(place.dtype, place.row.shape), begin + place.begin, begin + place.end
        )
        for place in places(config, dtypes)
    }
    return header.tensors == expected and begin % ALIGNMENT == 0
