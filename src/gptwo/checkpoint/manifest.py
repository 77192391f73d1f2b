"""manifest.json: which files make a whole checkpoint, with size and SHA-256 of each. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gptwo.base.errors import CheckpointError
from gptwo.checkpoint.layout import MANIFEST_NAME, TRAINING_TENSORS_NAME, read_json_object

FORMAT = "gptwo checkpoint"
VERSION = 1


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file of a checkpoint was when it was written."""

    size_bytes: int
    sha256: str


def manifest_bytes(files: Mapping[str, FileRecord]) -> bytes:
    """The contents of manifest.json for these files; it is written last, so its presence closes the folder."""
    records = {name: {"bytes": one.size_bytes, "sha256": one.sha256} for name, one in sorted(files.items())}
    return (json.dumps({"format": FORMAT, "version": VERSION, "files": records}, indent=2) + "\n").encode()


def read_manifest(folder: Path) -> dict[str, FileRecord]:
    """The records of the folder's manifest; ``CheckpointError`` when it is missing or of another kind."""
    path = folder / MANIFEST_NAME
    manifest = read_json_object(path)
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        got = f"{manifest.get('format')!r} version {manifest.get('version')!r}"
        raise CheckpointError(
            f"{path} is {got}; expected {FORMAT!r} version {VERSION}; use the gptwo that wrote it"
        )
    try:
        return {
            str(name): FileRecord(int(record["bytes"]), str(record["sha256"]))
            for name, record in manifest["files"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error!r}); expected bytes and sha256 of each file"
        ) from error


def verify(folder: Path, *, training: bool = True) -> None:
    """Reads every file of a checkpoint that gptwo wrote; ``CheckpointError`` names the first that is not as written.

    ``training`` False leaves the training state unread, which is twice the size of the model, and looks at its
    size only.
    """
    verify_sizes(folder)
    for name, record in read_manifest(folder).items():
        path = folder / name
        unread = name == TRAINING_TENSORS_NAME and not training
        if not unread and _sha256(path) != record.sha256:
            raise CheckpointError(
                f"{path} was altered: its SHA-256 is not the one in {MANIFEST_NAME}; "
                "expected it as it was saved; use another checkpoint"
            )


def verify_sizes(folder: Path) -> None:
    """As ``verify``, but only that every file is there with its size; cheap, and blind to altered bytes."""
    for name, record in read_manifest(folder).items():
        path = folder / name
        try:
            size_bytes = path.stat().st_size
        except OSError as error:
            raise CheckpointError(
                f"{path} is missing ({error.strerror}); expected {record.size_bytes} bytes; use another checkpoint"
            ) from error
        if size_bytes != record.size_bytes:
            raise CheckpointError(
                f"{path} has {size_bytes} bytes; expected {record.size_bytes}; use another checkpoint"
            )


def is_whole(folder: Path) -> bool:
    """Whether ``verify`` finds nothing."""
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def looks_whole(folder: Path) -> bool:
    """Whether ``verify_sizes`` finds nothing."""
    try:
        verify_sizes(folder)
    except CheckpointError:
        return False
    return True


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; use another checkpoint") from error
