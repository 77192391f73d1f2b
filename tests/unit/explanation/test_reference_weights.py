"""The reference multiplies by the numbers that the engine multiplies by."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

import gptwo
from gptwo.base.errors import ConfigError, NativeLibraryError
from gptwo.config import GPT2Config
from gptwo.explanation import weights
from gptwo.explanation.explanation import trace
from gptwo.explanation.weights import reference_of
from gptwo.infer.api import LanguageModel
from gptwo.kernels.library import instruction_sets
from gptwo.serve.explaining.badge import TOLERANCES
from random_checkpoint import write_random_checkpoint
from tolerance import Tolerance

CONFIG = GPT2Config(n_layer=2, n_head=4, n_embd=64, context=64, vocab_size=301)
TOKENS = np.arange(40) * 7
ENGINES = [
    ("torch", "fp32", "the engine's own, in float32"),
    ("torch", "fp64", "the engine's own, in float64"),
    ("torch", "bf16", "the engine's own, in float32 (they are in bfloat16)"),
    ("native", "fp32", "as stored, in float32"),
    ("native", "bf16", "as they are in bf16, in float32"),
    ("native", "int8", "as they are in int8, in float32"),
    ("native", "int4", "as they are in int4, in float32"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model"), CONFIG, dtype=torch.float32)


def loaded(folder: Path, engine: str, dtype: str) -> LanguageModel:
    if engine == "native":
        try:
            instruction_sets()
        except NativeLibraryError as error:
            pytest.skip(f"{error}")
    return gptwo.load(folder, device="cpu", engine=engine, dtype=dtype)


@pytest.mark.parametrize(("engine", "dtype", "words"), ENGINES)
def test_its_logits_are_the_engines(folder: Path, engine: str, dtype: str, words: str) -> None:
    model = loaded(folder, engine, dtype)
    reference = reference_of(model)
    assert reference.weights == words
    assert reference.description == f"the reference on cpu, weights {words}"
    expected = model.engine.logits(TOKENS)
    tolerance = Tolerance(
        atol=TOLERANCES[dtype] * float(np.abs(expected).max()), why="what the badge tolerates of this dtype"
    )
    found = trace(reference, TOKENS)
    tolerance.assert_close(found.logits, expected, "logits")


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_rounded_weights_are_not_those_of_the_file(folder: Path, dtype: str) -> None:
    ours = reference_of(loaded(folder, "native", dtype)).parameters
    stored = reference_of(loaded(folder, "native", "fp32")).parameters
    assert set(ours) == set(stored)
    name = "blocks.0.mlp.up.weight"
    gap = (ours[name] - stored[name]).abs().max()
    assert 0 < gap < 0.5 * stored[name].abs().max()


def test_a_dtype_may_be_asked_for(folder: Path) -> None:
    model = loaded(folder, "torch", "fp32")
    wide = reference_of(model, "fp64")
    assert wide.E.dtype == torch.float64
    assert reference_of(model).E.dtype == torch.float32
    with pytest.raises(
        ConfigError, match="dtype='bf16' is not possible for the reference; expected 'fp32' or"
    ):
        reference_of(model, "bf16")


def test_it_is_made_once_shares_the_engines_memory_and_goes_with_the_model(folder: Path) -> None:
    model = loaded(folder, "torch", "fp32")
    reference = reference_of(model)
    assert reference_of(model) is reference
    assert reference.E.data_ptr() == model.engine.model.token_embedding.weight.data_ptr()
    before = len(weights._KEPT)
    del model
    gc.collect()
    assert len(weights._KEPT) == before - 1
