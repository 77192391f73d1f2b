"""Packed models and their file: the values of the folder, and nothing but those."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy_checkpoint import MATRICES, ODD, random_values, released, write_folder
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from gptwo.base.errors import CheckpointError
from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.weights import load_weights
from gptwo.config import GPT2Config
from gptwo.infer.packed import PackedModel, pack_folder
from gptwo.infer.packed_file import CRC32, ContentHash, packed_chunks, read_packed
from gptwo.kernels.layout import PACKED_DTYPES, PackedDtype, pack, unpack

VALUES = random_values()
each_dtype = pytest.mark.parametrize("dtype", PACKED_DTYPES)


def values_of(model: PackedModel) -> dict[str, np.ndarray]:
    return {**{name: unpack(matrix) for name, matrix in model.matrices.items()}, **model.vectors}


def assert_same(model: PackedModel, expected: PackedModel) -> None:
    assert model.config == expected.config
    assert model.dtype == expected.dtype
    assert np.array_equal(model.memory, expected.memory)
    for name, matrix in expected.matrices.items():
        assert np.array_equal(model.matrices[name].data, matrix.data), name
    for name, vector in expected.vectors.items():
        assert np.array_equal(model.vectors[name], vector), name


def file_of(model: PackedModel, path: Path, content_hash: ContentHash = CRC32) -> Path:
    path.write_bytes(b"".join(packed_chunks(model, source="a test", content_hash=content_hash)))
    return path


def read(path: Path, config: GPT2Config = ODD) -> PackedModel:
    return read_packed(path, config, source=None, content_hash=CRC32)


@each_dtype
def test_the_parameters_are_the_folders(tmp_path: Path, dtype: PackedDtype) -> None:
    model = pack_folder(write_folder(tmp_path, VALUES), dtype)
    assert model.dtype == dtype
    names = {f"blocks.{i}.{matrix}.weight" for i in range(2) for matrix in MATRICES[1:]}
    assert set(model.matrices) == {"token_embedding.weight"} | names
    assert {model.matrices[name].dtype for name in names} == {dtype}
    assert model.matrices["token_embedding.weight"].dtype == ("int8" if dtype == "int4" else dtype)
    got = values_of(model)
    assert set(got) == set(VALUES)
    for name, values in VALUES.items():
        if name in model.matrices:
            assert np.array_equal(got[name], unpack(pack(values, model.matrices[name].dtype))), name
        else:
            assert got[name].dtype == np.float32
            assert np.array_equal(got[name], values), name
    for matrix in model.matrices.values():
        assert matrix.data.ctypes.data % 64 == 0


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_type_gives_what_torch_reads(tmp_path: Path, stored: torch.dtype) -> None:
    write_folder(tmp_path, VALUES)
    tensors = {name: torch.from_numpy(one).to(stored) for name, one in released(VALUES).items()}
    save_torch_file(tensors, tmp_path / "model.safetensors")
    expected = load_weights(tmp_path, device="cpu", dtype=torch.float32)
    for name, values in values_of(pack_folder(tmp_path, "fp32")).items():
        assert np.array_equal(values, expected[name].numpy()), name


def test_shards_without_the_prefix_are_read(tmp_path: Path) -> None:
    whole = pack_folder(write_folder(tmp_path / "whole", VALUES), "fp32")
    folder = write_folder(tmp_path / "shards", VALUES)
    (folder / "model.safetensors").unlink()
    bare = {name.removeprefix("transformer."): one for name, one in released(VALUES).items()}
    names = sorted(bare)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: bare[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(pack_folder(folder, "fp32"), whole)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, dtype: PackedDtype) -> None:
    name = "blocks.1.mlp.up.weight"
    damaged = VALUES[name].copy()
    damaged[3, 4] = np.nan
    folder = write_folder(tmp_path, {**VALUES, name: damaged})
    with pytest.raises(CheckpointError, match=rf"{name}: weights that are no finite numbers"):
        pack_folder(folder, dtype)


@each_dtype
def test_a_file_gives_the_model_back(tmp_path: Path, dtype: PackedDtype) -> None:
    model = pack_folder(write_folder(tmp_path, VALUES), dtype)
    path = file_of(model, tmp_path / "packed.safetensors")
    assert (path.stat().st_size - model.memory.nbytes) % 64 == 0
    got = read(path)
    assert_same(got, model)
    assert not got.memory.flags.writeable
    assert got.matrices["token_embedding.weight"].data.ctypes.data % 64 == 0


def test_other_programs_can_read_the_file(tmp_path: Path) -> None:
    model = pack_folder(write_folder(tmp_path, VALUES), "int8")
    tensors = load_file(file_of(model, tmp_path / "packed.safetensors"))
    assert set(tensors) == {row.ours for row in parameter_table(ODD)}
    assert np.array_equal(tensors["blocks.0.mlp.up.weight"], model.matrices["blocks.0.mlp.up.weight"].data)


def header_changed(content: bytes, change: Callable[[dict], None]) -> bytes:
    """The file with another header of the same length."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    assert len(encoded) <= length
    return content[:8] + encoded.ljust(length) + content[8 + length :]


def swap_blocks(header: dict) -> None:
    a, b = (header[f"blocks.{i}.mlp.up.weight"]["data_offsets"] for i in (0, 1))
    a[:], b[:] = b[:], a[:]


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = file_of(pack_folder(write_folder(tmp_path, VALUES), "int8"), tmp_path / "packed.safetensors")
    content = path.read_bytes()
    for at in (1, 1000, 30_000):
        altered = bytearray(content)
        altered[-at] ^= 1
        path.write_bytes(altered)
        with pytest.raises(CheckpointError, match=r"was altered: the hash .*; expected crc32:[^\n]*$"):
            read(path)
    for kept in (0, 5, 100, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swap_blocks, "holds other tensors"),
        (lambda header: header["__metadata__"].update(version="0"), "is no gptwo-packed file of version 1"),
        (lambda header: header["__metadata__"].update(group="64"), "is no gptwo-packed file"),
        (lambda header: header["__metadata__"].pop("format"), "is no gptwo-packed file"),
        (lambda header: header["__metadata__"].pop("hash"), "has a hash of the kind ''; expected crc32"),
    ],
)
def test_another_header_is_refused(tmp_path: Path, change: Callable[[dict], None], said: str) -> None:
    path = file_of(pack_folder(write_folder(tmp_path, VALUES), "int4"), tmp_path / "packed.safetensors")
    path.write_bytes(header_changed(path.read_bytes(), change))
    with pytest.raises(CheckpointError, match=said) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = file_of(pack_folder(write_folder(tmp_path, VALUES), "int8"), tmp_path / "packed.safetensors")
    # More tokens and a wider MLP in the same number of panels and groups: only the vectors' shapes tell.
    wider = GPT2Config(n_layer=2, n_head=3, n_embd=39, context=5, vocab_size=71, n_inner=51, dropout=0.0)
    with pytest.raises(CheckpointError, match="holds other tensors than the model of its config"):
        read(path, wider)


def test_the_hash_says_which_it_is(tmp_path: Path) -> None:
    model = pack_folder(write_folder(tmp_path, VALUES), "fp32")
    length = ContentHash("length", lambda content: content.nbytes)
    path = file_of(model, tmp_path / "packed.safetensors", length)
    assert_same(read_packed(path, ODD, source=None, content_hash=length), model)
    with pytest.raises(CheckpointError, match="has a hash of the kind 'length'; expected crc32"):
        read(path)
    # What was hashed without a native library is read with one.
    file_of(model, path)
    assert_same(read_packed(path, ODD, source=None, content_hash=length), model)
