"""``gptwo quantize``: the folder that it writes, what reads it, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy_checkpoint import MATRICES, ODD, random_values, write_folder

from command import command, done
from gptwo.base.errors import CheckpointError, ConfigError
from gptwo.checkpoint.manifest import verify
from gptwo.checkpoint.resolve import resolve_model
from gptwo.checkpoint.stored import mapped_bytes
from gptwo.checkpoint.tensor_header import read_header
from gptwo.checkpoint.weights import load_weights
from gptwo.infer.packed import pack_folder
from gptwo.infer.packed_cache import open_packed
from gptwo.infer.packed_file import fastest_hash
from gptwo.infer.quantize import quantize
from gptwo.kernels.layout import PackedDtype, unpack
from gptwo.tokenizer.build import build_byte

VALUES = random_values()
each_dtype = pytest.mark.parametrize("dtype", ["int8", "int4"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_folder(tmp_path / "model", VALUES)
    build_byte().save(folder)
    (folder / "generation_config.json").write_text("{}")
    (folder / "notes.txt").write_text("no part of a model")
    return folder


@each_dtype
def test_the_folder_holds_the_model_and_all_but_its_weights(
    folder: Path, tmp_path: Path, dtype: PackedDtype
) -> None:
    out = quantize(folder, to=dtype, out=tmp_path / "small").folder
    verify(out)
    weights = f"model.{dtype}.packed.safetensors"
    small = {"generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in out.iterdir()} == {"config.json", "manifest.json", weights} | small
    for name in small:
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    config = json.loads((out / "config.json").read_text())
    record = config.pop("gptwo_quantization")
    assert (record["version"], record["dtype"], record["group"]) == (1, dtype, 32)
    assert config == json.loads((folder / "config.json").read_text())


@each_dtype
def test_it_opens_as_what_was_packed(folder: Path, tmp_path: Path, dtype: PackedDtype) -> None:
    out = quantize(folder, to=dtype, out=tmp_path / "small").folder
    expected = pack_folder(folder, dtype)
    for asked in (None, dtype):
        model = open_packed(resolve_model(out), asked, fastest_hash())
        assert model.dtype == dtype
        assert np.array_equal(model.memory, expected.memory)
    assert not (out / ".gptwo").exists()
    with pytest.raises(ConfigError, match=rf"was quantized to {dtype}; got dtype 'fp32'"):
        open_packed(out, "fp32", fastest_hash())


def test_it_keeps_the_name_and_hash_of_the_model_and_not_where_it_lay(folder: Path, tmp_path: Path) -> None:
    out = quantize(folder, to="int8", out=tmp_path / "small").folder
    weights = folder / "model.safetensors"
    expected = f"model {fastest_hash().of(mapped_bytes(weights))}"
    path = out / "model.int8.packed.safetensors"
    assert read_header(path).metadata["source"] == expected
    assert str(tmp_path).encode() not in path.read_bytes()


@each_dtype
def test_the_report_is_the_errors_and_sizes(folder: Path, tmp_path: Path, dtype: PackedDtype) -> None:
    quantized = quantize(folder, to=dtype, out=tmp_path / "small")
    assert quantized.bytes_before == (folder / "model.safetensors").stat().st_size
    assert quantized.bytes_after == (tmp_path / "small" / f"model.{dtype}.packed.safetensors").stat().st_size
    assert list(quantized.errors) == list(MATRICES)
    packed = pack_folder(folder, dtype)
    for kind, error in quantized.errors.items():
        names = [name for name in packed.matrices if kind in name]
        values = np.concatenate([VALUES[name].ravel() for name in names]).astype(np.float64)
        rounded = np.concatenate([unpack(packed.matrices[name]).ravel() for name in names])
        assert error == pytest.approx(np.linalg.norm(rounded - values) / np.linalg.norm(values), rel=1e-6)
    assert max(quantized.errors.values()) < {"int8": 0.01, "int4": 0.12}[dtype]


def test_an_altered_file_is_refused(folder: Path, tmp_path: Path) -> None:
    out = quantize(folder, to="int8", out=tmp_path / "small").folder
    path = out / "model.int8.packed.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^[^\n]*was altered[^\n]*$"):
        open_packed(out, None, fastest_hash())


def test_torch_says_what_it_cannot_read(folder: Path, tmp_path: Path) -> None:
    out = quantize(folder, to="int8", out=tmp_path / "small").folder
    with pytest.raises(
        CheckpointError, match=r"^[^\n]*only as model\.int8\.packed\.safetensors[^\n]*native engine"
    ):
        load_weights(out, device="cpu")


def test_a_model_is_replaced_only_when_asked(folder: Path, tmp_path: Path) -> None:
    out = quantize(folder, to="int8", out=tmp_path / "small").folder
    with pytest.raises(CheckpointError, match=r"is there already; .*--force"):
        quantize(folder, to="int4", out=out)
    assert open_packed(out, None, fastest_hash()).dtype == "int8"
    quantize(folder, to="int4", out=out, force=True)
    assert open_packed(out, None, fastest_hash()).dtype == "int4"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"holds 'thesis\.txt'"):
        quantize(folder, to="int4", out=tmp_path / "other", force=True)


def test_what_cannot_be_quantized_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is the model itself"):
        quantize(folder, to="int8", out=folder, force=True)
    out = quantize(folder, to="int8", out=tmp_path / "small").folder
    with pytest.raises(CheckpointError, match="is quantized already"):
        quantize(out, to="int4", out=tmp_path / "smaller")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is an adapter; .*gptwo merge"):
        quantize(adapter, to="int4", out=tmp_path / "smaller")
    assert not (tmp_path / "smaller").exists()


def test_the_command_says_what_it_cost(folder: Path, tmp_path: Path) -> None:
    said = done("quantize", folder, "--to", "int4", "--out", tmp_path / "small").out
    assert said.startswith(f"{tmp_path / 'small'}: weights in int4, ")
    for kind in MATRICES:
        assert kind in said
    found = json.loads(done("quantize", folder, "--to", "int8", "--out", tmp_path / "json", "--json").out)
    assert found["folder"] == str(tmp_path / "json")
    assert found["bytes_after"] < found["bytes_before"]
    assert [found[name] for name in ("perplexity_before", "kl", "tokens")] == [None] * 3
    refused = command("quantize", folder, "--to", "int8", "--out", tmp_path / "json").error_line()
    assert "is there already" in refused


def test_the_command_measures_what_it_cost_a_text(tmp_path: Path) -> None:
    config = replace(ODD, vocab_size=257, context=16)
    folder = write_folder(tmp_path / "model", random_values(config), config)
    build_byte().save(folder)
    (tmp_path / "text.txt").write_text("a text of some windows, side by side, and a rest")
    arguments = ("quantize", folder, "--data", tmp_path / "text.txt", "--limit", 40, "--force")
    measured = {}
    for dtype in ("int8", "int4"):
        found = json.loads(done(*arguments, "--to", dtype, "--out", tmp_path / dtype, "--json").out)
        evaluated = done("eval", folder, "--data", tmp_path / "text.txt", "--limit", 40, "--json").out
        assert found["tokens"] == 40
        assert found["perplexity_before"] == pytest.approx(
            json.loads(evaluated)["metrics"]["perplexity"], rel=1e-5
        )
        assert found["perplexity_after"] != found["perplexity_before"]
        assert 0 <= found["top1_agreement"] <= 1
        measured[dtype] = found["kl"]
    assert 0 < measured["int8"] < measured["int4"] / 10
    said = done(*arguments, "--to", "int4", "--out", tmp_path / "int4").out
    assert "on 40 tokens of " in said
    assert "KL(before || after)" in said
