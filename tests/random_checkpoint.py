"""A folder with a small GPT-2 of random weights, large enough in scale that every token and position matters."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.released_config import config_to_hf
from gptwo.checkpoint.weights import released_tensors
from gptwo.config import GPT2Config


def random_weights(config: GPT2Config, seed: int) -> dict[str, torch.Tensor]:
    """Our names; normal with deviation 0.3 in float64, gains of layer norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    return {
        row.ours: 0.3 * torch.randn(row.shape, generator=generator, dtype=torch.float64)
        + (1.0 if row.ours.endswith("norm.weight") else 0.0)
        for row in parameter_table(config)
    }


def write_random_checkpoint(
    folder: Path,
    config: GPT2Config,
    *,
    seed: int = 0,
    eot_id: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Path:
    """config.json and model.safetensors in the released layout, without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config_to_hf(config, eot_id=eot_id, dtype=stored)))
    released = {
        name: t.to(dtype).contiguous()
        for name, t in released_tensors(config, random_weights(config, seed)).items()
    }
    save_file(released, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
