"""Any model folder as a packed model: what ``gptwo quantize`` made, or else packed here and kept beside the weights.

    FOLDER/.gptwo/source.json                            size, times, inode and hash of each weight file as last read
    FOLDER/.gptwo/packed-<dtype>-<key>.safetensors       ``packed_file``; the key follows from those hashes

A weight file whose size, times and inode are as recorded is taken to be the same, as git does; another is hashed again,
and only another content makes another key. The cache needs the room of the weights once more for each dtype;
GPTWO_PACKED_CACHE=0 turns it off. A folder that cannot be written to, or is being written to, costs the packing anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gptwo.base.errors import CheckpointError, ConfigError
from gptwo.base.lock import FolderLock
from gptwo.checkpoint.layout import CACHE_NAME, json_chunks, packed_file, read_json_object
from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.released_config import is_adapter, read_config
from gptwo.checkpoint.stored import mapped_bytes, stored_tensors
from gptwo.infer.formats import native_dtype
from gptwo.infer.packed import PackedModel, pack_folder
from gptwo.infer.packed_file import VERSION, ContentHash, packed_chunks, read_packed
from gptwo.kernels.layout import PACKED_DTYPES, PackedDtype

SWITCH = "GPTWO_PACKED_CACHE"
_RECORD_NAME = "source.json"
# Counted up when the same weights are to be rounded differently, so that no cache keeps what they were before.
_ROUNDING = 2
# A file that was written to within the tick of its clock before it was recorded may change again and keep its time.
_TICK_NS = 2_000_000_000

_log = logging.getLogger(__name__)


def open_packed(folder: Path, dtype: str | None, content_hash: ContentHash) -> PackedModel:
    """The model in ``folder``, packed as ``dtype``; None is as it is stored: "bf16", or "fp32" for all other floats.

    ``content_hash``: ``packed_file.native_hash`` of the kernels that will run it.

    Raises ``CheckpointError`` for a folder that is damaged or an adapter, ``ConfigError`` for a dtype that is not
    possible.
    """
    if is_adapter(folder):
        raise CheckpointError(
            f"{folder} is an adapter, which the native engine does not run; "
            "make one model of it and its base with gptwo merge"
        )
    if dtype is not None and dtype not in PACKED_DTYPES:
        raise ConfigError(
            f"the native engine has no dtype {dtype!r}; expected one of {', '.join(PACKED_DTYPES)}"
        )
    quantized = packed_file(folder)
    if quantized is not None:
        model = read_packed(quantized, read_config(folder), source=None, content_hash=content_hash)
        if dtype not in (None, model.dtype):
            raise ConfigError(
                f"{folder} was quantized to {model.dtype}; got dtype {dtype!r}; leave it out, "
                "or give the model that was quantized"
            )
        return model
    # Checked even where the cache has them: a folder that has been damaged is not run from what it was before.
    stored = stored_tensors(folder, parameter_table(read_config(folder)))
    if dtype is None:
        dtype = native_dtype(stored)
    chosen = next(one for one in PACKED_DTYPES if one == dtype)
    if os.environ.get(SWITCH) == "0":
        return pack_folder(folder, chosen)
    return _cached(folder, chosen, sorted({tensor.path for tensor in stored.values()}), content_hash)


@dataclass(frozen=True, slots=True)
class _SourceFile:
    """A weight file as it was read."""

    bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    hash: str

    @classmethod
    def of(cls, stat: os.stat_result, content: str) -> _SourceFile:
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, content)


def _cached(
    folder: Path, dtype: PackedDtype, weight_files: list[Path], content_hash: ContentHash
) -> PackedModel:
    cache, config = folder / CACHE_NAME, read_config(folder)
    files, is_recorded = _source_files(cache, weight_files, content_hash)
    key = _key(files)
    path = cache / f"packed-{dtype}-{key}.safetensors"
    record = {_RECORD_NAME: json_chunks(_record(files))}
    if path.exists():
        try:
            model = read_packed(path, config, source=key, content_hash=content_hash)
        except CheckpointError as error:
            _log.warning("packing the weights again: %s", error)
        else:
            if not is_recorded:
                _keep(cache, record)
            return model
    model = pack_folder(folder, dtype)
    chunks = packed_chunks(model, source=key, content_hash=content_hash)
    if _keep(cache, {path.name: chunks, **record}):
        # The file's memory in place of ours: the system may share it, and take it back.
        with suppress(CheckpointError):
            return read_packed(path, config, source=key, content_hash=content_hash)
    return model


def _source_files(
    cache: Path, weight_files: list[Path], content_hash: ContentHash
) -> tuple[dict[str, _SourceFile], bool]:
    """Every weight file as it is now, and whether all of that was recorded already."""
    recorded, recorded_ns = _read_record(cache / _RECORD_NAME)
    files: dict[str, _SourceFile] = {}
    for path in weight_files:
        stat = path.stat()
        known = recorded.get(path.name)
        if (
            known is not None
            and known == _SourceFile.of(stat, known.hash)
            and stat.st_mtime_ns + _TICK_NS <= recorded_ns
            and known.hash.startswith(f"{content_hash.name}:")
        ):
            files[path.name] = known
        else:
            content = content_hash.of(mapped_bytes(path))
            files[path.name] = _SourceFile.of(stat, content)
    return files, all(recorded.get(name) is one for name, one in files.items())


def _key(files: Mapping[str, _SourceFile]) -> str:
    contents = [[name, one.bytes, one.hash] for name, one in sorted(files.items())]
    return hashlib.sha256(json.dumps([VERSION, _ROUNDING, contents]).encode()).hexdigest()[:16]


def _record(files: Mapping[str, _SourceFile]) -> dict[str, object]:
    return {
        "version": 1,
        "recorded_ns": time.time_ns(),
        "files": {name: asdict(one) for name, one in files.items()},
    }


def _read_record(path: Path) -> tuple[dict[str, _SourceFile], int]:
    """What was recorded and when; nothing when there is no record, or one that is damaged."""
    try:
        record = read_json_object(path)
        files = {
            name: _SourceFile(
                int(one["bytes"]),
                int(one["mtime_ns"]),
                int(one["ctime_ns"]),
                int(one["inode"]),
                str(one["hash"]),
            )
            for name, one in record["files"].items()
        }
        return files, int(record["recorded_ns"])
    except (CheckpointError, KeyError, TypeError, ValueError, AttributeError):
        return {}, 0


def _keep(cache: Path, files: Mapping[str, Iterable[bytes | memoryview]]) -> bool:
    """Write the files, each whole or not at all, and remove what they replace; whether that was possible.

    Nothing is flushed to the disk: of what a loss of power leaves, the hash tells whether it is whole.
    """
    try:
        cache.mkdir(exist_ok=True)
        lock = FolderLock(cache)
        temporary = cache / "being-written.tmp"
        try:
            for name, chunks in files.items():
                with temporary.open("wb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                os.replace(temporary, cache / name)
                _remove_replaced(cache / name)
        finally:
            temporary.unlink(missing_ok=True)
            lock.release()
    except OSError as error:
        _log.debug("packed weights are not kept in %s: %s", cache, error)
        return False
    return True


def _remove_replaced(path: Path) -> None:
    """Packed weights of another source and this dtype, which nobody will ask for again."""
    kind, _, _ = path.name.rpartition("-")
    if kind:
        for other in path.parent.glob(f"{kind}-*{path.suffix}"):
            if other != path:
                other.unlink(missing_ok=True)
