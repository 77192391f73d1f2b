"""What a run trains: which model, on which text, and what it leaves in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from gptwo.checkpoint.store import TrainingState, save_checkpoint
from gptwo.checkpoint.weights import load_weights
from gptwo.config import TrainConfig
from gptwo.data import load_index
from gptwo.model import GPT2
from gptwo.tokenizer import Tokenizer
from gptwo.train.setup import build_or_load
from gptwo.train.source import PreparedText, Source


class Task(Protocol):
    """The parts of a run that the loop does not know: ``Pretraining`` here, ``finetune.Finetuning``."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model's text."""

    @property
    def measures_start(self) -> bool:
        """Whether the model to begin with is evaluated too, before the first step."""

    def model(self, start: Path | None, device: torch.device) -> GPT2:
        """The model of the run's checkpoint ``start``, or to begin with."""

    def source(self, context: int) -> Source:
        """What it learns from."""

    def save(self, folder: Path, model: GPT2, training: TrainingState) -> Path:
        """Write a checkpoint into ``folder``, whole or not at all."""

    def restore(self, folder: Path, model: GPT2) -> None:
        """Put the weights that ``save`` wrote back into the model, in place."""


class Pretraining:
    """All weights, on a folder of ``gptwo prepare``; a checkpoint is a model."""

    measures_start = False

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        load_index(
            Path(config.data)
        )  # what is no prepared data is said to be that, and not to lack a tokenizer
        self.tokenizer = Tokenizer.load(Path(config.data))

    def model(self, start: Path | None, device: torch.device) -> GPT2:
        return build_or_load(self._config, start, tokenizer=self.tokenizer, device=device)

    def source(self, context: int) -> Source:
        return PreparedText(Path(self._config.data), self._config, context)

    def save(self, folder: Path, model: GPT2, training: TrainingState) -> Path:
        return save_model(folder, model, self.tokenizer, training)

    def restore(self, folder: Path, model: GPT2) -> None:
        restore_weights(folder, model)


def save_model(folder: Path, model: GPT2, tokenizer: Tokenizer, training: TrainingState) -> Path:
    """A checkpoint that is a model, all of its weights in it; errors as ``save_checkpoint``."""
    return save_checkpoint(
        folder, config=model.config, weights=model.state_dict(), tokenizer=tokenizer, training=training
    )


def restore_weights(folder: Path, model: GPT2) -> None:
    """The weights of a checkpoint, in place."""
    model.load_state_dict(
        load_weights(folder, device=model.token_embedding.weight.device, dtype=torch.float32)
    )
