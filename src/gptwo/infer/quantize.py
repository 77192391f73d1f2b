"""``gptwo quantize``: a model folder whose weights are rounded to 8 or 4 bits, for the native engine. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np

from gptwo.base.errors import CheckpointError, ConfigError
from gptwo.checkpoint.atomic_folder import folder_written_whole
from gptwo.checkpoint.layout import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    PACKED_NAMES,
    TOKENIZER_NAMES,
    json_chunks,
    packed_file,
    read_json_object,
)
from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.released_config import is_adapter
from gptwo.checkpoint.resolve import hub_id, resolve_model
from gptwo.checkpoint.stored import mapped_bytes, stored_arrays, stored_tensors, weight_files
from gptwo.infer.packed import EMBEDDING, PackedModel, matrices_of, our_values, pack_folder
from gptwo.infer.packed_file import VERSION, ContentHash, fastest_hash, packed_chunks
from gptwo.kernels.layout import PackedDtype, unpack
from gptwo.kernels.rounding import GROUP

# What config.json says of it; transformers and older versions pass it over and find no model.safetensors.
_RECORD = "gptwo_quantization"


@dataclass(frozen=True)
class Quantized:
    """What became of a model: its folder, the bytes of its weights, and the error of every kind of matrix.

    The error of a kind is sqrt(Σ (w - ŵ)² / Σ w²) over all its matrices: 0.01 is 1 %.
    """

    source: Path
    folder: Path
    dtype: PackedDtype
    bytes_before: int
    bytes_after: int
    errors: dict[str, float]


def quantize(model: str | Path, *, to: PackedDtype, out: Path, force: bool = False) -> Quantized:
    """Write ``model``, its matrices rounded to ``to`` ("int8" or "int4"), into the folder ``out``, whole or not at all.

    ``force`` replaces a model that is there. Raises ``ConfigError``, ``CheckpointError`` or ``StorageError``.
    """
    if to not in PACKED_NAMES:
        raise ConfigError(f"to={to!r} is not possible; expected {' or '.join(PACKED_NAMES)}")
    folder = resolve_model(model)
    if is_adapter(folder):
        raise CheckpointError(
            f"{folder} is an adapter; expected a whole model; make one with gptwo merge first"
        )
    if packed_file(folder) is not None:
        raise CheckpointError(f"{folder} is quantized already; give the model that it was made of")
    _require_place(folder, out, force)
    packed = pack_folder(folder, to)
    small = {
        path.name: path.read_bytes()
        for name in sorted({*TOKENIZER_NAMES, GENERATION_CONFIG_NAME})
        if (path := folder / name).is_file()
    }
    config = {**read_json_object(folder / CONFIG_NAME), _RECORD: _record(packed)}
    with folder_written_whole(out, needed_bytes=packed.memory.nbytes) as files:
        files.write(CONFIG_NAME, json_chunks(config))
        for name, content in small.items():
            files.write(name, [content])
        content_hash = fastest_hash()
        chunks = packed_chunks(packed, source=_source(model, folder, content_hash), content_hash=content_hash)
        files.write(PACKED_NAMES[to], chunks)
    return Quantized(
        source=folder,
        folder=out,
        dtype=to,
        bytes_before=sum(path.stat().st_size for path in weight_files(folder)),
        bytes_after=(out / PACKED_NAMES[to]).stat().st_size,
        errors=relative_errors(folder, packed),
    )


def relative_errors(folder: Path, packed: PackedModel) -> dict[str, float]:
    """The error of each kind of matrix in ``packed``, which was made of the model in ``folder``: ``Quantized``."""
    stored = stored_arrays(stored_tensors(folder, parameter_table(packed.config)))
    squares: dict[str, np.ndarray] = {}
    for row in matrices_of(packed.config):
        kind = re.sub(r"^blocks\.\d+\.|\.weight$", "", row.ours)
        values = our_values(row, stored[row.ours])
        difference = unpack(packed.matrices[row.ours])
        difference -= values
        found = np.array([_sum_of_squares(difference), _sum_of_squares(values)])
        squares[kind] = squares.get(kind, 0) + found
    return {kind: sqrt(error / whole) if whole else 0.0 for kind, (error, whole) in squares.items()}


def _sum_of_squares(values: np.ndarray) -> float:
    return sum(float(np.square(rows, dtype=np.float64).sum()) for rows in np.array_split(values, 64))


def _source(model: str | Path, folder: Path, content_hash: ContentHash) -> str:
    """The model's name and the hashes of its weight files. A folder's path is its owner's business, and not told."""
    name = hub_id(model) if not Path(model).expanduser().exists() else None
    hashes = [content_hash.of(mapped_bytes(path)) for path in weight_files(folder)]
    return " ".join([name or Path(model).expanduser().resolve().name, *hashes])


def _record(packed: PackedModel) -> Mapping[str, object]:
    embedding = packed.matrices[EMBEDDING].dtype
    return {
        "version": int(VERSION),
        "dtype": packed.dtype,
        "token_embedding": embedding,
        "group": GROUP,
        "scale": "bfloat16",
    }


def _require_place(folder: Path, out: Path, force: bool) -> None:
    if out.resolve() == folder.resolve():
        raise ConfigError(f"--out {out} is the model itself; expected another folder")
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(
            f"{out} is there already; expected a new or empty folder; choose another name, or replace it with --force"
        )
