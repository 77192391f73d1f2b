"""A small model's folder in the released layout, made and known without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.released_config import config_to_hf
from gptwo.config import GPT2Config

# Odd sizes: nothing fills its panels and groups.
ODD = GPT2Config(n_layer=2, n_head=3, n_embd=39, context=5, vocab_size=71, n_inner=50, dropout=0.0)
MATRICES = ("token_embedding", "attention.qkv", "attention.output", "mlp.up", "mlp.down")


def random_values(config: GPT2Config = ODD, *, seed: int = 0) -> dict[str, np.ndarray]:
    """float32 under our names; the same multiples of 2⁻⁷ in every float type."""
    rng = np.random.default_rng(seed)
    return {
        row.ours: rng.integers(-127, 127, row.shape).astype(np.float32) / 128
        for row in parameter_table(config)
    }


def write_folder(
    folder: Path, values: Mapping[str, np.ndarray], config: GPT2Config = ODD, *, dtype: type = np.float32
) -> Path:
    """config.json and model.safetensors of these values."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_to_hf(config, eot_id=None, dtype="float32")))
    save_file(released(values, config, dtype), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def released(
    values: Mapping[str, np.ndarray], config: GPT2Config = ODD, dtype: type = np.float32
) -> dict[str, np.ndarray]:
    return {
        row.released: np.ascontiguousarray(
            values[row.ours].T if row.transposed else values[row.ours], dtype=dtype
        )
        for row in parameter_table(config)
    }
