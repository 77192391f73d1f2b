"""Weights of any GPT-2 folder in the released layout, into our names and back.

Safetensors only. A pickle can run any code when it is opened, so none is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gptwo.base.errors import CheckpointError
from gptwo.checkpoint.layout import INDEX_NAME, WEIGHTS_NAME, pickles_in, read_json_object
from gptwo.checkpoint.names import Parameter, parameter_table
from gptwo.checkpoint.released_config import is_adapter, read_config
from gptwo.checkpoint.tensor_file import open_tensor_file
from gptwo.config import GPT2Config
from gptwo.model.gpt2 import GPT2

# The causal mask that older transformers kept among the weights.
_MASK_BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_HEAD = "lm_head.weight"
_EMBEDDING = "transformer.wte.weight"
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a tensor lies, and what its file's header says of it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def load_model(folder: Path, *, device: torch.device | str, dtype: torch.dtype | None = None) -> GPT2:
    """The model in ``folder``, on ``device``, in evaluation mode; errors as ``load_weights``.

    Built without memory (on torch's meta device) and given the read tensors, so nothing is initialised in vain.
    """
    weights = load_weights(folder, device=device, dtype=dtype)
    model = GPT2(read_config(folder), device="meta")
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


def load_weights(
    folder: Path, *, device: torch.device | str, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The tensors of ``folder`` under our names and in our shapes, on ``device``; ``dtype`` None keeps the file's.

    Reads model.safetensors or its sharded form, names with or without "transformer.". Raises ``CheckpointError``
    naming the first tensor that is missing, unknown or of another shape, and for pickles, which are never opened.
    Of an adapter they are its base's with the adapter added.
    """
    folder = Path(folder)
    if is_adapter(folder):
        from gptwo.checkpoint.adapter import merged_weights

        return merged_weights(folder, device=device, dtype=dtype)
    table = parameter_table(read_config(folder))
    stored = _stored_tensors(folder)
    _check_names_and_shapes(folder, {row.released: row.released_shape for row in table}, stored)
    _check_dtypes(folder, stored, dtype)
    weights: dict[str, Tensor] = {}
    for path in sorted({tensor.path for tensor in stored.values()}):
        with open_tensor_file(path) as file:
            for row in table:
                if stored[row.released].path == path:
                    weights[row.ours] = _as_ours(
                        row, file.get_tensor(stored[row.released].name), device, dtype
                    )
    return {row.ours: weights[row.ours] for row in table}


def released_tensors(config: GPT2Config, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the released names and in the released shapes: views, nothing is copied.

    ``CheckpointError`` when ``weights`` are not exactly those of ``config``.
    """
    table = parameter_table(config)
    expected = {row.ours: row.shape for row in table}
    _check_against("the weights to save", expected, {name: tuple(t.shape) for name, t in weights.items()})
    return {row.released: weights[row.ours].t() if row.transposed else weights[row.ours] for row in table}


def released_state(model: GPT2) -> dict[str, Tensor]:
    """The released state dict of a ``GPT2``: what ``GPT2LMHeadModel.load_state_dict`` takes, contiguous, detached."""
    released = released_tensors(model.config, model.state_dict())
    return {name: tensor.detach().contiguous() for name, tensor in released.items()}


def _as_ours(row: Parameter, tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None) -> Tensor:
    # Copied in one pass, and always: what is read must not change when the file does.
    copy = torch.empty(row.shape, dtype=dtype or tensor.dtype, device=device)
    return copy.copy_(tensor.t() if row.transposed else tensor)


def _stored_tensors(folder: Path) -> dict[str, _Stored]:
    """Every tensor of the folder by its full released name, from the headers of its files alone."""
    stored: dict[str, _Stored] = {}
    for path in _weight_files(folder):
        with open_tensor_file(path) as file:
            for name in file.keys():  # noqa: SIM118 - the library's reader is not a mapping
                full = name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"
                if _MASK_BUFFER.fullmatch(full):
                    continue
                if full in stored:
                    raise CheckpointError(
                        f"{path} holds {full} twice; expected each tensor once; save it again"
                    )
                part = file.get_slice(name)
                stored[full] = _Stored(path, name, tuple(part.get_shape()), part.get_dtype())
    return stored


def _weight_files(folder: Path) -> list[Path]:
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
    pickles = pickles_in(folder)
    if pickles:
        raise CheckpointError(
            f"{folder} has its weights only as {pickles[0]}, a pickle, which is never opened because it can run any "
            f"code; expected {WEIGHTS_NAME}; load it where you trust it with transformers and save_pretrained it"
        )
    raise CheckpointError(
        f"{folder} has no {WEIGHTS_NAME}; expected a GPT-2 checkpoint folder; copy it again"
    )


def _check_names_and_shapes(
    folder: Path, expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, _Stored]
) -> None:
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    # A head of E's own shape is E once more, as every tied checkpoint may keep it; any other is an extra tensor.
    if shapes.get(_HEAD) == expected[_EMBEDDING]:
        del shapes[_HEAD]
    _check_against(str(folder), expected, shapes)


def _check_against(
    owner: str, expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]
) -> None:
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


def _check_dtypes(folder: Path, stored: Mapping[str, _Stored], wanted: torch.dtype | None) -> None:
    for name, tensor in stored.items():
        if tensor.dtype not in _FLOATS:
            raise CheckpointError(
                f"{folder}: {name} is {tensor.dtype}; expected one of {', '.join(_FLOATS)}; "
                "give the model as it was before it was quantized"
            )
    dtypes = sorted({tensor.dtype for tensor in stored.values()})
    if wanted is None and len(dtypes) > 1:
        raise CheckpointError(
            f"{folder} holds weights as {' and '.join(dtypes)}; expected one of them throughout; "
            "give a dtype to convert to"
        )
