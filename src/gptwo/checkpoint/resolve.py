"""From what a user calls a model to its folder on this disk. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from gptwo.base.errors import CheckpointError, MissingExtraError
from gptwo.checkpoint.atomic_folder import in_place_or_aside
from gptwo.checkpoint.layout import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    WEIGHTS_NAME,
    has_weights,
    is_pickle_name,
)
from gptwo.checkpoint.runs import is_run, newest_whole

_EXPECTED = (
    "expected a folder with config.json and model.safetensors, a run of gptwo train or finetune, an adapter, "
    "or a hub id"
)

# The published sizes by their short names (paper §9), where their authors keep them.
_PUBLISHED = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Model names have dots too ("gpt-2.1"), so an extension is one of those that files here have.
_FILE_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".gguf", ".onnx", ".toml", ".yaml"})
# What a model folder is made of; weights in any other form (pickles above all) are never fetched.
_HUB_FILES = ("*.json", "*.safetensors", "*.txt")


def resolve_model(name: str | Path) -> Path:
    """The model folder that ``name`` means: of a checkpoint, an adapter, a run (its newest whole one), or a hub id.

    A hub id is ``owner/name`` or the name of a published size; it is fetched with ``huggingface_hub`` (extra ``data``)
    or taken from its cache. What looks like a path is never looked up in the network. Raises ``CheckpointError`` when
    there is no such model, and ``MissingExtraError`` for a hub id without that extra.
    """
    return _resolve(name, weights=True)


def resolve_config(name: str | Path) -> Path:
    """As ``resolve_model``, for whoever reads no weights: of a hub id config.json alone is fetched."""
    return _resolve(name, weights=False)


def _resolve(name: str | Path, *, weights: bool) -> Path:
    folder = in_place_or_aside(Path(name).expanduser())
    if folder.is_dir():
        return _in_folder(folder)
    if folder.exists():
        raise CheckpointError(_not_a_folder(folder))
    repository = hub_id(name)
    # In a folder that is here, a missing name is a slip of the pen and none of the network's business.
    beside_others = "/" in str(name) and folder.parent.is_dir()
    if repository is None or beside_others:
        raise CheckpointError(f"there is no model {str(name)!r}; {_EXPECTED}; check the path")
    return _from_hub(repository, weights=weights)


def hub_id(name: str | Path) -> str | None:
    """The hub repository that ``name`` may mean; None when it is a path or no possible id."""
    if isinstance(name, Path):
        return None
    if name in _PUBLISHED:
        return _PUBLISHED[name]
    if not _HUB_ID.fullmatch(name) or is_pickle_name(Path(name)) or Path(name).suffix in _FILE_SUFFIXES:
        return None
    return name


def _in_folder(folder: Path) -> Path:
    if (folder / CONFIG_NAME).is_file() or (folder / ADAPTER_CONFIG_NAME).is_file():
        return folder
    if is_run(folder):
        newest = newest_whole(folder, training=False)
        if newest is None:
            raise CheckpointError(f"the run {folder} has no whole checkpoint; train it until its first save")
        return newest
    raise CheckpointError(f"{folder} is no model: it has neither config.json nor checkpoints/; {_EXPECTED}")


def _not_a_folder(path: Path) -> str:
    if is_pickle_name(path):
        return (
            f"{path} is a pickle, which is never opened because it can run any code; {_EXPECTED}; "
            "load it where you trust it with transformers and save_pretrained it"
        )
    return f"{path} is a file; {_EXPECTED}; give the folder it lies in"


def _from_hub(repository: str, *, weights: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    except ImportError as error:
        raise MissingExtraError(
            f"there is no folder {repository!r}, and fetching it from the hub needs huggingface_hub; "
            "install it with: pip install 'gptwo[data]'"
        ) from error
    try:
        files = list(_HUB_FILES) if weights else [CONFIG_NAME, ADAPTER_CONFIG_NAME]
        folder = Path(snapshot_download(repository, allow_patterns=files, ignore_patterns=["*/*"]))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"there is no model {repository!r}, neither here nor in public on the hub; {_EXPECTED}; check the name"
        ) from error
    except Exception as error:
        # Each version of huggingface_hub has another network library, with its own errors.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"there is no folder {repository!r}, and it cannot be fetched from the hub ({reason}); {_EXPECTED}; "
            "give a folder, or connect to the network"
        ) from error
    if weights and not has_weights(folder):
        raise CheckpointError(
            f"the hub's {repository!r} has no {WEIGHTS_NAME}, and pickles are never fetched; {_EXPECTED}; "
            "convert it where you trust it: load it with transformers and save_pretrained it"
        )
    return _in_folder(folder)
