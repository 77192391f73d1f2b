"""Which engine runs what; that all of them compute alike is the contract test's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gptwo
from gptwo.base.errors import CheckpointError, ConfigError, NativeLibraryError
from gptwo.config import GPT2Config
from gptwo.infer import engines
from gptwo.infer.engines import choose_engine, load_engine
from gptwo.infer.quantize import quantize
from random_checkpoint import write_random_checkpoint

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=16, vocab_size=37)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_random_checkpoint(tmp_path_factory.mktemp("models") / "small", CONFIG)
    weights = load_file(folder / "model.safetensors")
    single = {name: tensor.astype(np.float32) for name, tensor in weights.items()}
    save_file(single, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("dtype", [None, "fp32", "bf16", "int8", "int4", "float32", "torch.bfloat16"])
def test_auto_is_native_on_a_cpu(folder: Path, dtype: str | None) -> None:
    assert choose_engine(folder, device="cpu", dtype=dtype) == ("native", None)
    model = gptwo.load(folder, device="cpu", dtype=dtype, threads=1)
    assert model.description.startswith("native on cpu in ")
    assert "1 thread)" in model.description
    assert model.engine_reason is None


def test_auto_says_why_it_is_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = gptwo.load(folder, device="cpu", dtype="fp64")
    assert model.description == "torch on cpu in float64; the native engine does not compute in fp64"
    assert (
        choose_engine(folder, device="cuda").reason
        == "the native engine runs on the cpu, and cuda was asked for"
    )

    def not_built() -> list[str]:
        raise NativeLibraryError("the native kernels are not built")

    monkeypatch.setattr(engines, "instruction_sets", not_built)
    assert choose_engine(folder, device="cpu") == ("torch", "the native kernels are not built")


def test_auto_keeps_float64_where_that_is_stored(tmp_path: Path) -> None:
    double = write_random_checkpoint(tmp_path / "double", CONFIG)
    reason = choose_engine(double).reason
    assert reason == "the native engine does not compute in float64, as the weights are"
    assert choose_engine(double, dtype="fp32").name == "native"


def test_auto_leaves_the_model_to_an_accelerator(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "has_accelerator", lambda: True)
    assert choose_engine(folder) == ("torch", "there is an accelerator")
    assert choose_engine(folder, device="cpu").name == "native"
    assert choose_engine(folder, dtype="int8").name == "native"
    assert choose_engine(folder, kv_dtype="int8").name == "native"


def test_a_quantized_folder_is_the_native_engines(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = quantize(folder, to="int8", out=tmp_path / "small").folder
    monkeypatch.setattr(engines, "has_accelerator", lambda: True)
    assert gptwo.load(out, threads=1).description.startswith("native on cpu in int8 ")
    with pytest.raises(CheckpointError, match="gptwo quantize made for the native engine"):
        gptwo.load(out, engine="torch")

    def not_built() -> list[str]:
        raise NativeLibraryError("the native kernels are not built")

    monkeypatch.setattr(engines, "instruction_sets", not_built)
    with pytest.raises(NativeLibraryError, match="are not built"):
        gptwo.load(out)


def test_what_cannot_be_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no engine 'onnx'; expected auto or one of native, torch"):
        load_engine(folder, engine="onnx")
    with pytest.raises(
        ConfigError, match="dtype 'int8' is not possible on the torch engine; expected one of bf16, fp16"
    ):
        load_engine(folder, engine="torch", dtype="int8")
    with pytest.raises(ConfigError, match="dtype 'int3' is not possible on any engine"):
        load_engine(folder, dtype="int3")
    with pytest.raises(ConfigError, match="the native engine runs on the cpu, not on 'cuda:0'"):
        load_engine(folder, engine="native", device="cuda:0")
    with pytest.raises(
        ConfigError, match=r"kv_dtype 'int4' is not possible on any engine; expected one of bf16, fp32, int8$"
    ):
        load_engine(folder, kv_dtype="int4")
    with pytest.raises(
        ConfigError,
        match="kv_dtype 'bf16' is not possible on the torch engine; expected none, as it keeps them",
    ):
        load_engine(folder, engine="torch", kv_dtype="bf16")
    with pytest.raises(
        ConfigError, match=r"kv_dtype int8 is the native engine's alone, and .* fp64; leave it out"
    ):
        load_engine(folder, dtype="fp64", kv_dtype="int8")
    for engine in ("native", "torch"):
        with pytest.raises(ConfigError, match="threads=0 is not possible"):
            load_engine(folder, engine=engine, device="cpu", threads=0)


def test_writing_with_the_native_engine_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import gptwo; "
        f"model = gptwo.load({str(folder)!r}, device='cpu', threads=1); "
        "print(len(model.generate([1, 2, 3], max_new_tokens=4, temperature=0).tokens))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("4\n", "")


def test_heads_that_are_too_wide_are_refused_with_the_way_out(tmp_path: Path) -> None:
    wide = GPT2Config(n_layer=1, n_head=1, n_embd=320, context=4, vocab_size=5)
    with pytest.raises(ConfigError, match=r"heads of width 320 .* 256; use engine=torch"):
        load_engine(write_random_checkpoint(tmp_path / "wide", wide), engine="native")
