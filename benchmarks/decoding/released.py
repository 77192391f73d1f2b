"""A GPT-2 folder of transformers' naming as NumPy arrays, for the peers whose formats are written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

Array = np.ndarray[Any, np.dtype[np.float32]]


class Shape(NamedTuple):
    """The paper's letters, and the epsilon of layer norms."""

    D: int
    H: int
    F: int
    V: int
    L: int
    C: int
    epsilon: float


def read_shape(model: Path) -> Shape:
    """The shape of the model in a folder."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    D = config["n_embd"]
    return Shape(
        D, config["n_head"], config.get("n_inner") or 4 * D, config["vocab_size"], config["n_layer"],
        config["n_positions"], config["layer_norm_epsilon"],
    )  # fmt: skip


def read(model: Path) -> dict[str, Array]:
    """Its float32 tensors, without "transformer." in their names; matrices of projections are in x out."""
    tensors = load_file(model / "model.safetensors")
    return {name.removeprefix("transformer."): np.float32(t) for name, t in tensors.items()}
