"""A tiny model's weights and tokenizer, and a checkpoint of them, for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.store import TrainingState, save_checkpoint
from gptwo.config import GPT2Config

TINY = GPT2Config(n_layer=2, n_head=2, n_embd=6, context=5, vocab_size=11, n_inner=9, dropout=0.0)


def random_weights(
    config: GPT2Config, seed: int, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        row.ours: torch.randn(row.shape, generator=generator).to(dtype) for row in parameter_table(config)
    }


class LetterTokenizer:
    """Two files, as a tokenizer leaves them; the store asks no more of one."""

    def __init__(self, eot_id: int | None = 10) -> None:
        self.eot_id = eot_id

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps({"eot": self.eot_id}), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")


def save_tiny(folder: Path, seed: int, *, step: int = 1) -> Path:
    """A checkpoint whose every byte follows from ``seed`` and ``step``."""
    return save_checkpoint(
        folder,
        config=TINY,
        weights=random_weights(TINY, seed),
        tokenizer=LetterTokenizer(),
        training=TrainingState(step, {"moment": torch.full((3, 2), float(seed))}, {"seed": seed}),
    )
