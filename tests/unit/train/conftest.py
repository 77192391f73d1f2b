"""Prepared data small enough to train on in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptwo.config import TrainConfig
from gptwo.data import prepare

TEXT = "The quick brown fox jumps over the lazy dog; the dog sleeps on. " * 60


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,840 bytes as byte tokens: V=257, the last tenth to validate on."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    prepare([str(folder / "text.txt")], tokenizer="byte", out=folder / "data")
    return folder / "data"


@pytest.fixture
def tiny(data_folder: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A run of a 2-layer model in ``tmp_path/run``; keyword arguments change its settings."""

    def build(**changes: Any) -> TrainConfig:
        settings: dict[str, Any] = {
            "data": str(data_folder),
            "out": str(tmp_path / "run"),
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 16,
            "context": 16,
            "dropout": 0.1,
            "batch_tokens": 64,
            "micro_batch": 3,
            "steps": 6,
            "warmup_steps": 2,
            "save_every": 1,
            "eval_every": 3,
            "keep_last": 10,
            "log_every": 1,
            "sample_tokens": 4,
            "device": "cpu",
        }
        return TrainConfig(**{**settings, **changes})

    return build
