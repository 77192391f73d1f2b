"""A whole model as the native kernels want it: matrices packed, the rest float32, in one piece of memory. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptwo.base.errors import CheckpointError
from gptwo.checkpoint.names import Parameter, parameter_table
from gptwo.checkpoint.released_config import read_config
from gptwo.checkpoint.stored import stored_arrays, stored_tensors
from gptwo.config import GPT2Config
from gptwo.kernels.layout import PackedDtype, PackedMatrix, aligned_bytes, as_packed, pack, packed_bytes
from gptwo.kernels.rounding import from_bfloat16

EMBEDDING = "token_embedding.weight"


@dataclass(frozen=True, eq=False)
class PackedModel:
    """The parameters under our names: views of ``memory``, which is read-only where it is a mapped file."""

    config: GPT2Config
    matrices: dict[str, PackedMatrix]
    """token_embedding (look-up and head), and of every block attention.qkv, attention.output, mlp.up and mlp.down."""
    vectors: dict[str, NDArray[np.float32]]
    """Position embedding, gains and biases. They begin at multiples of 4 bytes."""
    memory: NDArray[np.uint8]

    @property
    def dtype(self) -> PackedDtype:
        """That of the blocks' matrices."""
        return next(matrix.dtype for name, matrix in self.matrices.items() if name != EMBEDDING)


class Place(NamedTuple):
    """Where a parameter lies in ``PackedModel.memory``; ``dtype`` None: float32, as it is."""

    row: Parameter
    dtype: PackedDtype | None
    begin: int
    end: int


def matrices_of(config: GPT2Config) -> list[Parameter]:
    """The parameters that are packed, in the order of the forward pass."""
    return [row for row in parameter_table(config) if row.transposed or row.ours == EMBEDDING]


def matrix_dtypes(config: GPT2Config, dtype: PackedDtype) -> dict[str, PackedDtype]:
    """How each matrix of a model of ``dtype`` is packed: alike, but E of an int4 model is int8.

    E, look-up and head at once, cost 0.4 to 0.8 % of perplexity alone when it was in int4 (docs/decisions/0016).
    """
    dtypes = {row.ours: dtype for row in matrices_of(config)}
    return dtypes | {EMBEDDING: "int8"} if dtype == "int4" else dtypes


def places(config: GPT2Config, dtypes: Mapping[str, PackedDtype]) -> list[Place]:
    """Every parameter's place: the matrices first, whose sizes are multiples of 64 bytes, and so all are aligned."""
    rows = parameter_table(config)
    found: list[Place] = []
    for row in sorted(rows, key=lambda row: row.ours not in dtypes):
        dtype = dtypes.get(row.ours)
        size = packed_bytes(dtype, *row.shape) if dtype else 4 * int(np.prod(row.shape))
        begin = found[-1].end if found else 0
        found.append(Place(row, dtype, begin, begin + size))
    return found


def model_in(memory: NDArray[np.uint8], config: GPT2Config, dtypes: Mapping[str, PackedDtype]) -> PackedModel:
    """The model whose parameters lie in ``memory`` at their ``places``."""
    matrices: dict[str, PackedMatrix] = {}
    vectors: dict[str, NDArray[np.float32]] = {}
    for row, dtype, begin, end in places(config, dtypes):
        if dtype:
            matrices[row.ours] = as_packed(memory[begin:end], dtype, *row.shape)
        else:
            vectors[row.ours] = memory[begin:end].view(np.float32).reshape(row.shape)
    return PackedModel(config, matrices, vectors, memory)


def pack_folder(folder: Path, dtype: PackedDtype) -> PackedModel:
    """The model in ``folder``, of any float type, packed in memory of its own.

    Raises ``CheckpointError`` as ``stored_tensors``, and for weights that are no finite numbers when they are to be
    rounded to integers.
    """
    config = read_config(folder)
    stored = stored_arrays(stored_tensors(folder, parameter_table(config)))
    dtypes = matrix_dtypes(config, dtype)
    where = places(config, dtypes)
    model = model_in(aligned_bytes(where[-1].end), config, dtypes)

    def fill(place: Place) -> None:
        name = place.row.ours
        values = our_values(place.row, stored[name])
        if place.dtype is None:
            model.vectors[name][...] = values
            return
        try:
            pack(values, place.dtype, into=model.memory[place.begin : place.end])
        except ValueError as error:
            raise CheckpointError(f"{folder}: {name}: {error}; use another checkpoint") from error

    # No two places share memory, and NumPy lets go of the interpreter while it works.
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, where):
            pass
    return model


def our_values(row: Parameter, stored: NDArray[np.generic]) -> NDArray[np.generic]:
    """A parameter in our shape, of its ``stored_arrays``: a view but for bfloat16, which NumPy does not have."""
    values: NDArray[np.generic] = (
        from_bfloat16(stored.view(np.uint16)) if stored.dtype == np.uint16 else stored
    )
    return values.T if row.transposed else values
