"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from gptwo.base.errors import DataError, StorageError
from gptwo.base.lock import FolderLock


class StagedFolder:
    """``with StagedFolder(out, replaceable) as staged``: write into ``staged.path``, then ``staged.publish()``.

    The work lies in a hidden sibling, ``.NAME.preparing``, which is removed when the block ends without ``publish``,
    and by the next run after a kill. ``publish`` flushes it to disk and renames it to ``out``. An ``out`` that is not
    empty is replaced only if ``replaceable(out)``; it is moved aside first (``.NAME.replaced``) and put back by the
    next run if a kill fell between the two renames. Raises ``DataError`` for an ``out`` that is in the way or being
    written by another process.
    """

    def __init__(self, out: Path, *, replaceable: Callable[[Path], bool]) -> None:
        # Resolved, so that "." and links have a name and a parent to rename within.
        self.out = out.resolve()
        self.path = self.out.parent / f".{self.out.name}.preparing"
        self._replaced = self.out.parent / f".{self.out.name}.replaced"
        self._replaceable = replaceable
        self._lock: FolderLock | None = None

    def __enter__(self) -> StagedFolder:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(exist_ok=True)
        self._take_lock()
        try:
            self._recover()
            self._refuse_if_in_the_way()
            for leftover in self.path.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def publish(self) -> None:
        """Flush every file and folder to disk, then rename to ``out``: from here on it is there, and whole."""
        for file in sorted(self.path.iterdir()):
            sync(file)
        sync(self.path)
        if self.out.exists():
            os.rename(self.out, self._replaced)
        os.rename(self.path, self.out)
        sync(self.out.parent)
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _take_lock(self) -> None:
        try:
            self._lock = FolderLock(self.path)
        except BlockingIOError:
            raise DataError(
                f"another process is preparing {self.out}; wait for it or choose another folder"
            ) from None

    def _recover(self) -> None:
        if self._replaced.exists():
            if self.out.exists():
                shutil.rmtree(self._replaced)
            else:
                os.rename(self._replaced, self.out)

    def _refuse_if_in_the_way(self) -> None:
        if not self.out.exists():
            return
        if not self.out.is_dir():
            raise DataError(f"{self.out} is a file; expected a folder to make")
        if any(self.out.iterdir()) and not self._replaceable(self.out):
            raise DataError(
                f"{self.out} is not empty; choose another folder, or give --force if it holds prepared data "
                "(nothing else is replaced)"
            )


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk itself."""
    if path.is_dir() and sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(out: Path, error: OSError) -> StorageError:
    """The one line for a disk that refused while ``out`` was being written."""
    return StorageError(
        f"cannot write {out}: {error.strerror or error}; nothing was left there: free some space or choose another disk"
    )
