"""What lies in a model folder: the names of its files, and reading the JSON ones. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptwo.base.errors import CheckpointError

CONFIG_NAME = "config.json"
GENERATION_CONFIG_NAME = "generation_config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MANIFEST_NAME = "manifest.json"
TRAINING_TENSORS_NAME = "training.safetensors"
TRAINING_INFO_NAME = "training.json"
ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
ADAPTER_BASE_NAME = "adapter_base.json"
# What gptwo quantize makes in place of model.safetensors.
PACKED_NAMES = {dtype: f"model.{dtype}.packed.safetensors" for dtype in ("int8", "int4")}
# Where the native engine keeps the weights of a folder as its kernels want them; made again when it is gone.
CACHE_NAME = ".gptwo"

TOKENIZER_NAMES = frozenset(
    {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
    }
)
# Files that a model folder may hold and that a later save into it may replace.
KNOWN_NAMES = TOKENIZER_NAMES | {
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    WEIGHTS_NAME,
    MANIFEST_NAME,
    TRAINING_TENSORS_NAME,
    TRAINING_INFO_NAME,
    ADAPTER_CONFIG_NAME,
    ADAPTER_WEIGHTS_NAME,
    ADAPTER_BASE_NAME,
    CACHE_NAME,
    *PACKED_NAMES.values(),
}

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights, or an adapter, in a form that is read."""
    names = (WEIGHTS_NAME, INDEX_NAME, ADAPTER_WEIGHTS_NAME, *PACKED_NAMES.values())
    return any((folder / name).exists() for name in names)


def packed_file(folder: Path) -> Path | None:
    """The packed weights of a folder that has no others; None in any other folder."""
    if (folder / WEIGHTS_NAME).exists() or (folder / INDEX_NAME).exists():
        return None
    return next((folder / name for name in PACKED_NAMES.values() if (folder / name).exists()), None)


def is_pickle_name(path: Path) -> bool:
    return path.suffix.lower() in _PICKLE_SUFFIXES


def pickles_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if is_pickle_name(path))


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ``CheckpointError`` when it is missing, unreadable, or no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; expected a model folder with this file") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not JSON ({error}); expected an object; copy the file again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; expected an object")
    return value


def json_chunks(value: dict[str, Any]) -> Iterator[bytes]:
    """The bytes of a JSON file, for ``FolderWriter.write``."""
    yield (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
