"""The weights of a GPT-2 folder as they lie in its files: found, and checked against its config. No torch.

Safetensors only. A pickle can run any code when it is opened, so none is opened.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptwo.base.errors import CheckpointError
from gptwo.checkpoint.layout import INDEX_NAME, WEIGHTS_NAME, packed_file, pickles_in, read_json_object
from gptwo.checkpoint.names import Parameter
from gptwo.checkpoint.tensor_header import TensorRecord, read_header

# The causal mask that older transformers kept among the weights.
_MASK_BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_HEAD = "lm_head.weight"
_EMBEDDING = "transformer.wte.weight"
# NumPy has no bfloat16: its bits.
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The file that a tensor lies in, its name there, and what the file's header says of it."""

    path: Path
    name: str
    record: TensorRecord


def stored_tensors(folder: Path, table: Iterable[Parameter]) -> dict[str, StoredTensor]:
    """Where each parameter of ``table`` lies, by our names; read from the headers of the folder's files alone.

    model.safetensors or its sharded form, names with or without "transformer.". Raises ``CheckpointError`` naming the
    first tensor that is missing, unknown, of another shape, or no float, and for pickles.
    """
    rows = list(table)
    found = _by_released_name(folder)
    shapes = {name: tensor.record.shape for name, tensor in found.items()}
    expected = {row.released: row.released_shape for row in rows}
    # A head of E's own shape is E once more, as every tied checkpoint may keep it; any other is an extra tensor.
    if shapes.get(_HEAD) == expected[_EMBEDDING]:
        del shapes[_HEAD]
    require_shapes(str(folder), expected, shapes)
    for name, tensor in found.items():
        if tensor.record.dtype not in _FLOATS:
            raise CheckpointError(
                f"{folder}: {name} is {tensor.record.dtype}; expected one of {', '.join(_FLOATS)}; "
                "give the model as it was before it was quantized"
            )
    return {row.ours: found[row.released] for row in rows}


def stored_arrays(stored: Mapping[str, StoredTensor]) -> dict[str, NDArray[np.generic]]:
    """The tensors as they lie in the files, which are mapped and not read; read-only; BF16 as its bits, uint16."""
    files = {path: mapped_bytes(path) for path in {tensor.path for tensor in stored.values()}}
    return {
        name: files[tensor.path][tensor.record.begin : tensor.record.end]
        .view(_FLOATS[tensor.record.dtype])
        .reshape(tensor.record.shape)
        for name, tensor in stored.items()
    }


def mapped_bytes(path: Path) -> NDArray[np.uint8]:
    """A file of at least one byte as an array, read-only; its bytes are read when they are looked at."""
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the folder's weights; errors as ``stored_tensors``."""
    if (folder / WEIGHTS_NAME).exists():
        return [folder / WEIGHTS_NAME]
    if (folder / INDEX_NAME).exists():
        weight_map = read_json_object(folder / INDEX_NAME).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{folder / INDEX_NAME} has no weight_map; expected tensor names and files")
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if Path(name).name != name:
                raise CheckpointError(
                    f"{folder / INDEX_NAME} names {name!r}; expected files of its own folder"
                )
        return [folder / name for name in names]
    if (packed := packed_file(folder)) is not None:
        raise CheckpointError(
            f"{folder} has its weights only as {packed.name}, which gptwo quantize made for the native engine; "
            "use that engine, or give the model that was quantized"
        )
    pickles = pickles_in(folder)
    if pickles:
        raise CheckpointError(
            f"{folder} has its weights only as {pickles[0]}, a pickle, which is never opened because it can run any "
            f"code; expected {WEIGHTS_NAME}; load it where you trust it with transformers and save_pretrained it"
        )
    raise CheckpointError(
        f"{folder} has no {WEIGHTS_NAME}; expected a GPT-2 checkpoint folder; copy it again"
    )


def require_shapes(
    owner: str, expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]
) -> None:
    """``CheckpointError`` naming the first tensor of ``owner`` that is missing, of another shape, or unknown."""
    for name, shape in expected.items():
        if name not in got:
            raise CheckpointError(
                f"{owner}: {name} is missing; expected it with shape {shape}, as config.json says; "
                "give the config.json and weights of one model"
            )
        if got[name] != shape:
            raise CheckpointError(
                f"{owner}: {name} has shape {got[name]}; expected {shape}, as config.json says; "
                "give the config.json and weights of one model"
            )
    for name, shape in got.items():
        if name not in expected:
            raise CheckpointError(
                f"{owner}: {name} with shape {shape} is no part of a GPT-2 of this config; "
                f"expected {len(expected)} tensors; give a GPT-2 language model without other heads"
            )


def _by_released_name(folder: Path) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        for name, record in read_header(path).tensors.items():
            full = name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"
            if _MASK_BUFFER.fullmatch(full):
                continue
            if full in stored:
                raise CheckpointError(f"{path} holds {full} twice; expected each tensor once; save it again")
            stored[full] = StoredTensor(path, name, record)
    return stored
