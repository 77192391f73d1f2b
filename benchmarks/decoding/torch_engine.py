"""gptwo's torch engine on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch

from decoding.native import Ours
from gptwo import load as load_model


def load(model: Path, converted: Path, precision: str, threads: int) -> Ours:
    torch.set_num_threads(threads)
    return Ours(load_model(model, device="cpu", engine="torch", dtype=precision).engine)
