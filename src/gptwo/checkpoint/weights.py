"""Weights of any GPT-2 folder in the released layout, into torch and our names, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gptwo.base.errors import CheckpointError
from gptwo.checkpoint.names import Parameter, parameter_table
from gptwo.checkpoint.released_config import is_adapter, read_config
from gptwo.checkpoint.stored import StoredTensor, require_shapes, stored_tensors
from gptwo.checkpoint.tensor_header import open_tensor_file
from gptwo.config import GPT2Config
from gptwo.model.gpt2 import GPT2


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
    stored = stored_tensors(folder, table)
    if dtype is None:
        _require_one_dtype(folder, stored)
    weights: dict[str, Tensor] = {}
    for path in sorted({tensor.path for tensor in stored.values()}):
        with open_tensor_file(path, "pt") as file:
            for row in table:
                if stored[row.ours].path == path:
                    weights[row.ours] = _as_ours(row, file.get_tensor(stored[row.ours].name), device, dtype)
    return {row.ours: weights[row.ours] for row in table}


def released_tensors(config: GPT2Config, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the released names and in the released shapes: views, nothing is copied.

    ``CheckpointError`` when ``weights`` are not exactly those of ``config``.
    """
    table = parameter_table(config)
    expected = {row.ours: row.shape for row in table}
    require_shapes("the weights to save", expected, {name: tuple(t.shape) for name, t in weights.items()})
    return {row.released: weights[row.ours].t() if row.transposed else weights[row.ours] for row in table}


def released_state(model: GPT2) -> dict[str, Tensor]:
    """The released state dict of a ``GPT2``: what ``GPT2LMHeadModel.load_state_dict`` takes, contiguous, detached."""
    released = released_tensors(model.config, model.state_dict())
    return {name: tensor.detach().contiguous() for name, tensor in released.items()}


def _as_ours(row: Parameter, tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None) -> Tensor:
    # Copied in one pass, and always: what is read must not change when the file does.
    copy = torch.empty(row.shape, dtype=dtype or tensor.dtype, device=device)
    return copy.copy_(tensor.t() if row.transposed else tensor)


def _require_one_dtype(folder: Path, stored: Mapping[str, StoredTensor]) -> None:
    dtypes = sorted({tensor.record.dtype for tensor in stored.values()})
    if len(dtypes) > 1:
        raise CheckpointError(
            f"{folder} holds weights as {' and '.join(dtypes)}; expected one of them throughout; "
            "give a dtype to convert to"
        )
