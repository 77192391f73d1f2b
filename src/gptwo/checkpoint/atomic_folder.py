"""A folder that is written whole or not at all, whatever stops the writing. No torch.

The files go into a temporary sibling, each is fsynced, the manifest comes last, and one rename puts the folder in
place. An existing folder is first renamed aside (``.old-NAME``) and removed after the new one is in place, so that at
every instant NAME or ``.old-NAME`` is whole; readers understand both (``in_place_or_aside``).
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gptwo.base.errors import CheckpointError, StorageError
from gptwo.checkpoint.layout import KNOWN_NAMES, MANIFEST_NAME
from gptwo.checkpoint.manifest import FileRecord, is_whole, manifest_bytes

_TEMPORARY_PREFIX = ".tmp-"
_ASIDE_PREFIX = ".old-"
# A temporary folder of another machine, or of a process id that is in use again, is nobody's after a day of silence.
_STALE_AFTER_S = 24 * 3600.0


class FolderWriter:
    """Writes files into the temporary folder ``path`` and remembers size and hash of each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, FileRecord] = {}

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """One file from its chunks, on the disk (fsync) when this returns; ``OSError`` as the system gives it."""
        digest, size_bytes = hashlib.sha256(), 0
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            for chunk in chunks:
                digest.update(chunk)
                view = memoryview(chunk)
                size_bytes += len(view)
                while view:  # write may take less than it is given
                    view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.files[name] = FileRecord(size_bytes, digest.hexdigest())

    def adopt(self) -> None:
        """Fsyncs and records the files that others wrote into ``path``."""
        for path in sorted(self.path.iterdir()):
            if path.name not in self.files:
                _fsync(path)
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256")
                self.files[path.name] = FileRecord(path.stat().st_size, digest.hexdigest())


@contextmanager
def folder_written_whole(folder: Path, *, needed_bytes: int) -> Iterator[FolderWriter]:
    """Gives a writer; when its block ends, ``folder`` is the written one, whole. When it raises, nothing changed.

    Raises ``StorageError`` for what the system refuses (``needed_bytes`` is for its message), and
    ``CheckpointError`` when ``folder`` exists and holds files that no checkpoint has.
    """
    target = Path(os.path.realpath(folder))
    temporary = _temporary(target)
    try:
        _require_replaceable(target)
        _make_folders(target.parent)
        _remove_stale(target.parent, own=temporary)
        os.mkdir(temporary)
        writer = FolderWriter(temporary)
        yield writer
        writer.write(MANIFEST_NAME, [manifest_bytes(writer.files)])
        _fsync(temporary)
        _put_in_place(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # A StorageError here is a writer's own, and names the temporary folder; its cause is the system's.
        cause = error.__cause__ if isinstance(error, StorageError) else error
        if isinstance(cause, OSError):
            raise StorageError(_refusal(folder, cause, needed_bytes)) from error
        raise


def in_place_or_aside(folder: Path) -> Path:
    """``folder``, or the one set aside for it when a replacement was cut off between its two renames."""
    aside = folder.parent / f"{_ASIDE_PREFIX}{folder.name}"
    return aside if aside.is_dir() and not folder.exists() else folder


def name_in_place(folder: Path) -> str:
    """The name that a folder set aside had; the folder's own otherwise."""
    return folder.name.removeprefix(_ASIDE_PREFIX)


def remove_folder(folder: Path) -> None:
    """Removes a whole folder so that no half of it is ever seen under its name; ``StorageError`` when refused."""
    doomed = _temporary(folder)
    try:
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(folder, doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        raise StorageError(f"cannot remove {folder}: {error.strerror}; remove it by hand") from error


def _temporary(folder: Path) -> Path:
    return folder.parent / f"{_TEMPORARY_PREFIX}{folder.name}-{os.getpid()}@{socket.gethostname()}"


def _put_in_place(temporary: Path, target: Path) -> None:
    aside = target.parent / f"{_ASIDE_PREFIX}{target.name}"
    if target.exists() and aside.exists():
        # Left by a save that was cut off. One of the two was whole then; keep one that still is.
        shutil.rmtree(aside if is_whole(target) or not is_whole(aside) else target)
    if target.exists():
        os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except BaseException:
        if aside.exists() and not target.exists():
            os.rename(aside, target)
        raise
    _fsync(target.parent)
    # The save is done. What cannot be removed now is removed by the next save to the same place.
    shutil.rmtree(aside, ignore_errors=True)


def _require_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"{target} is a file; expected a folder to save into; choose another name")
    names = {path.name for path in target.iterdir()}
    if MANIFEST_NAME not in names and not names <= KNOWN_NAMES:
        foreign = min(names - KNOWN_NAMES)
        raise CheckpointError(
            f"{target} holds {foreign!r}, which is no part of a checkpoint; "
            "expected a new or empty folder, or a checkpoint to replace; choose another name"
        )


def _make_folders(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    with suppress(FileExistsError):
        os.mkdir(folder)
    _fsync(folder.parent)


def _remove_stale(parent: Path, *, own: Path) -> None:
    for path in parent.glob(f"{_TEMPORARY_PREFIX}*-*@*"):
        if path == own or _is_stale(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_stale(temporary: Path) -> bool:
    named, _, host = temporary.name.rpartition("@")
    process = named.rpartition("-")[2]
    if host == socket.gethostname() and process.isdecimal() and os.name == "posix":
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass
    try:
        touched = max(path.stat().st_mtime for path in (temporary, *temporary.iterdir()))
    except OSError:
        return False  # its process has just put it in place or removed it
    return time.time() - touched > _STALE_AFTER_S


def _fsync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return  # Windows has no handle on a folder to flush
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(folder: Path, error: OSError, needed_bytes: int) -> str:
    reason = error.strerror or str(error)
    advice = "choose a folder that can be written"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "make room or choose another disk"
    elif error.errno == errno.EIO:
        advice = "check the disk or choose another"
    return (
        f"cannot save {folder}: {reason} (it needs {needed_bytes:,} bytes{_free(folder)}); {advice}; "
        "what was saved before is whole"
    )


def _free(folder: Path) -> str:
    for parent in folder.absolute().parents:
        with suppress(OSError):
            return f", {shutil.disk_usage(parent).free:,} are free"
    return ""
