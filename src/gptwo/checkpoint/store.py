"""Saving checkpoints so that a whole one always exists, and the training state beside the model. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptwo.base.errors import CheckpointError
from gptwo.checkpoint.atomic_folder import folder_written_whole, in_place_or_aside
from gptwo.checkpoint.layout import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    TRAINING_INFO_NAME,
    TRAINING_TENSORS_NAME,
    WEIGHTS_NAME,
    json_chunks,
    read_json_object,
)
from gptwo.checkpoint.manifest import is_whole, verify
from gptwo.checkpoint.released_config import config_to_hf, generation_config_to_hf
from gptwo.checkpoint.runs import checkpoint_path, list_checkpoints, newest_whole, prune
from gptwo.config import GPT2Config

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gptwo.tokenizer import Tokenizer

__all__ = [
    "TrainingState",
    "checkpoint_path",
    "is_whole",
    "list_checkpoints",
    "load_training_state",
    "newest_whole",
    "prune",
    "save_checkpoint",
    "verify",
]


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What training needs beside the weights to go on bitwise as if never stopped.

    ``step`` is the number of optimizer steps taken; ``tensors`` under any names (optimizer moments, RNG states);
    ``info`` is anything JSON can say.
    """

    step: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    *,
    config: GPT2Config,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    training: TrainingState | None,
) -> Path:
    """Writes ``folder`` whole or not at all and returns it: a folder that transformers loads as it is.

    ``weights`` under our names, on any device, of one dtype. The tensors are copied one at a time. Replacing a
    checkpoint leaves the old one whole until the new one is. Raises ``StorageError`` when the disk refuses (what was
    saved before stays whole, nothing half-written stays), and ``CheckpointError`` for weights that are not
    ``config``'s or a folder that holds something else than a checkpoint.
    """
    from gptwo.checkpoint.weights import released_tensors

    released = released_tensors(config, weights)
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in released.values()})
    if len(dtypes) != 1:
        raise CheckpointError(
            f"the weights to save are {' and '.join(dtypes)}; expected one dtype; convert them"
        )
    eot_id = tokenizer.eot_id if tokenizer is not None else None
    settings = {
        CONFIG_NAME: config_to_hf(config, eot_id=eot_id, dtype=dtypes[0]),
        GENERATION_CONFIG_NAME: generation_config_to_hf(eot_id=eot_id),
    }
    return write_checkpoint(Path(folder), settings, {WEIGHTS_NAME: released}, tokenizer, training)


def write_checkpoint(
    folder: Path,
    settings: Mapping[str, dict[str, Any]],
    tensors: Mapping[str, Mapping[str, Tensor]],
    tokenizer: Tokenizer | None,
    training: TrainingState | None,
) -> Path:
    """Writes the JSON files ``settings`` and the tensor files ``tensors``, by name, with tokenizer and training state.

    Whole or not at all; errors as ``save_checkpoint``.
    """
    from gptwo.checkpoint.tensor_file import tensor_file_chunks

    files_of_tensors = {name: dict(found) for name, found in tensors.items()}
    if training is not None:
        files_of_tensors[TRAINING_TENSORS_NAME] = dict(training.tensors)
    needed_bytes = sum(
        t.numel() * t.element_size() for found in files_of_tensors.values() for t in found.values()
    )
    with folder_written_whole(folder, needed_bytes=needed_bytes) as files:
        for name, content in settings.items():
            files.write(name, json_chunks(content))
        if tokenizer is not None:
            tokenizer.save(files.path)
            files.adopt()
        for name, found in files_of_tensors.items():
            files.write(name, tensor_file_chunks(found))
        if training is not None:
            files.write(TRAINING_INFO_NAME, json_chunks({"step": training.step, "info": training.info}))
    return folder


def load_training_state(folder: Path, device: torch.device | str = "cpu") -> TrainingState:
    """The training state saved in ``folder``, its tensors on ``device``.

    ``CheckpointError`` when the folder has none (a model from elsewhere, or saved without) or it is damaged.
    """
    from gptwo.checkpoint.tensor_file import read_tensor_file

    folder = in_place_or_aside(Path(folder))
    if not (folder / TRAINING_INFO_NAME).exists():
        raise CheckpointError(
            f"{folder} has no {TRAINING_INFO_NAME}; expected a checkpoint of a gptwo training run to resume; "
            "start a new run from its weights instead"
        )
    kept = read_json_object(folder / TRAINING_INFO_NAME)
    step, info = kept.get("step"), kept.get("info")
    if not isinstance(step, int) or not isinstance(info, dict):
        raise CheckpointError(
            f"{folder / TRAINING_INFO_NAME} is damaged; expected step and info; use another checkpoint"
        )
    return TrainingState(step, read_tensor_file(folder / TRAINING_TENSORS_NAME, device=device), info)
