"""When packed weights are kept, trusted, and made anew."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy_checkpoint import ODD, random_values, released, write_folder
from safetensors.torch import save_file as save_torch_file

from gptwo.base.errors import CheckpointError, ConfigError
from gptwo.base.lock import FolderLock
from gptwo.infer import packed_cache
from gptwo.infer.packed import PackedModel, pack_folder
from gptwo.infer.packed_cache import open_packed
from gptwo.infer.packed_file import CRC32, ContentHash
from gptwo.kernels.layout import PACKED_DTYPES, PackedDtype, unpack

VALUES, OTHERS = random_values(seed=0), random_values(seed=1)
LONG_AGO_NS = 1_700_000_000_000_000_000


class Counted:
    """What was packed and hashed."""

    def __init__(self) -> None:
        self.packed = 0
        self.hashed = 0

    @property
    def hash(self) -> ContentHash:
        def digest(content: memoryview) -> int:
            self.hashed += 1
            return CRC32.digest(content)

        return ContentHash("counted", digest)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()

    def pack_counted(folder: Path, dtype: PackedDtype) -> PackedModel:
        counted.packed += 1
        return pack_folder(folder, dtype)

    monkeypatch.setattr(packed_cache, "pack_folder", pack_counted)
    return counted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return settled(write_folder(tmp_path / "model", VALUES))


def settled(folder: Path) -> Path:
    """The weights as if they had been written long ago."""
    os.utime(folder / "model.safetensors", ns=(LONG_AGO_NS, LONG_AGO_NS))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in (folder / ".gptwo").iterdir())


def packed_path(folder: Path) -> Path:
    (path,) = (folder / ".gptwo").glob("packed-*")
    return path


def assert_model(model: PackedModel, values: dict[str, np.ndarray]) -> None:
    """fp32, so that nothing is rounded."""
    for name, matrix in model.matrices.items():
        assert np.array_equal(unpack(matrix), values[name]), name
    for name, vector in model.vectors.items():
        assert np.array_equal(vector, values[name]), name


@pytest.mark.parametrize("dtype", PACKED_DTYPES)
def test_the_second_time_nothing_is_packed(folder: Path, counted: Counted, dtype: PackedDtype) -> None:
    first, second = open_packed(folder, dtype, counted.hash), open_packed(folder, dtype, counted.hash)
    assert counted.packed == 1
    assert np.array_equal(first.memory, pack_folder(folder, dtype).memory)
    assert np.array_equal(first.memory, second.memory)
    assert names(folder) == ["packed", "source.json"]
    assert packed_path(folder).name.startswith(f"packed-{dtype}-")


def test_every_dtype_has_a_file_of_its_own(folder: Path, counted: Counted) -> None:
    for dtype in (*PACKED_DTYPES, *PACKED_DTYPES):
        assert open_packed(folder, dtype, counted.hash).dtype == dtype
    assert counted.packed == 4
    assert names(folder) == ["packed"] * 4 + ["source.json"]


def test_weights_of_the_same_size_and_time_are_not_read(folder: Path, counted: Counted) -> None:
    open_packed(folder, "fp32", counted.hash)
    counted.hashed = 0
    open_packed(folder, "fp32", counted.hash)
    assert counted.hashed == 1  # the packed file's own


def test_weights_of_another_time_are_read_once_more_and_packed_no_more(
    folder: Path, counted: Counted
) -> None:
    open_packed(folder, "fp32", counted.hash)
    os.utime(folder / "model.safetensors", ns=(LONG_AGO_NS, LONG_AGO_NS + 1))
    for hashed in (2, 1):
        counted.hashed = 0
        open_packed(folder, "fp32", counted.hash)
        assert (counted.hashed, counted.packed) == (hashed, 1)


def test_weights_that_were_just_written_are_read_again(folder: Path, counted: Counted) -> None:
    """Another content may follow within the tick of the file system's clock, of the same size."""
    os.utime(folder / "model.safetensors")
    open_packed(folder, "fp32", counted.hash)
    stat = (folder / "model.safetensors").stat()
    write_folder(folder, OTHERS)
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert_model(open_packed(folder, "fp32", counted.hash), OTHERS)


def test_weights_that_took_over_a_size_and_a_time_are_read_again(folder: Path, counted: Counted) -> None:
    """As `cp -p`, `rsync -t` and archives leave them."""
    stat = (folder / "model.safetensors").stat()
    open_packed(folder, "fp32", counted.hash)
    write_folder(folder, OTHERS)
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (folder / "model.safetensors").stat().st_size == stat.st_size
    assert_model(open_packed(folder, "fp32", counted.hash), OTHERS)


def test_another_content_is_packed_and_the_old_goes(folder: Path, counted: Counted) -> None:
    open_packed(folder, "int8", counted.hash)
    open_packed(folder, "fp32", counted.hash)
    write_folder(folder, OTHERS)
    assert_model(open_packed(folder, "fp32", counted.hash), OTHERS)
    assert counted.packed == 3
    assert names(folder) == ["packed", "packed", "source.json"]
    # The one of the other dtype is not asked for by its old key, and goes when it is made anew.
    assert np.array_equal(
        open_packed(folder, "int8", counted.hash).memory, pack_folder(folder, "int8").memory
    )
    assert names(folder) == ["packed", "packed", "source.json"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_cache_is_made_anew(
    folder: Path, counted: Counted, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    open_packed(folder, "fp32", counted.hash)
    path = packed_path(folder)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"flip": content, "cut": content[:-7], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert_model(open_packed(folder, "fp32", counted.hash), VALUES)
    assert counted.packed == 2
    assert [str(path) in message for message in caplog.messages] == [True]
    assert_model(open_packed(folder, "fp32", counted.hash), VALUES)
    assert counted.packed == 2


@pytest.mark.parametrize("record", ["", "[]", '{"files": {"model.safetensors": {}}}', '{"files": 3}'])
def test_a_damaged_record_is_made_anew(folder: Path, counted: Counted, record: str) -> None:
    open_packed(folder, "fp32", counted.hash)
    (folder / ".gptwo" / "source.json").write_text(record)
    assert_model(open_packed(folder, "fp32", counted.hash), VALUES)
    assert counted.packed == 1
    assert "model.safetensors" in json.loads((folder / ".gptwo" / "source.json").read_text())["files"]


def test_another_hash_trusts_nothing_of_the_first(folder: Path, counted: Counted) -> None:
    open_packed(folder, "fp32", counted.hash)
    assert_model(open_packed(folder, "fp32", CRC32), VALUES)
    assert counted.packed == 2


def fill_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    yield


def put_a_file_in_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (folder / ".gptwo").write_text("no folder")
    yield


def let_another_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (folder / ".gptwo").mkdir()
    lock = FolderLock(folder / ".gptwo")
    yield
    lock.release()


@pytest.mark.parametrize("obstacle", [fill_the_disk, put_a_file_in_the_way, let_another_write])
def test_what_cannot_be_kept_is_packed_in_memory(
    folder: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, obstacle: object
) -> None:
    assert callable(obstacle)
    for _ in obstacle(folder, monkeypatch):
        assert_model(open_packed(folder, "fp32", counted.hash), VALUES)
        assert_model(open_packed(folder, "fp32", counted.hash), VALUES)
        assert counted.packed == 2
        assert not list(folder.glob(".gptwo/*"))


def test_the_cache_can_be_turned_off(folder: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTWO_PACKED_CACHE", "0")
    assert_model(open_packed(folder, "fp32", counted.hash), VALUES)
    assert not (folder / ".gptwo").exists()


def test_without_a_dtype_it_is_as_stored(folder: Path) -> None:
    assert open_packed(folder, None, CRC32).dtype == "fp32"
    tensors = {name: torch.from_numpy(one) for name, one in released(VALUES).items()}
    for stored, dtype in ((torch.bfloat16, "bf16"), (torch.float16, "fp32"), (torch.float64, "fp32")):
        save_torch_file({name: one.to(stored) for name, one in tensors.items()}, folder / "model.safetensors")
        model = open_packed(folder, None, CRC32)
        assert model.dtype == dtype
        assert_model(model, VALUES)  # which all of these types have exactly


def test_what_it_cannot_run_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^the native engine has no dtype 'fp64'; expected one of fp32, bf16"
    ):
        open_packed(folder, "fp64", CRC32)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is an adapter.*gptwo merge$"):
        open_packed(adapter, "fp32", CRC32)


def test_a_folder_that_was_damaged_is_not_run_from_its_cache(folder: Path) -> None:
    open_packed(folder, "fp32", CRC32)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        open_packed(folder, "fp32", CRC32)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"not a whole safetensors file"):
        open_packed(folder, "fp32", CRC32)


def test_another_shape_in_the_config_is_refused(folder: Path) -> None:
    open_packed(folder, "fp32", CRC32)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_positions": ODD.context + 1}))
    with pytest.raises(CheckpointError, match=r"wpe\.weight has shape \(5, 39\); expected \(6, 39\)"):
        open_packed(folder, "fp32", CRC32)
