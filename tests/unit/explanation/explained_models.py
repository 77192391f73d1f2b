"""Small random models to explain, as the reference has them and as ``equations.py`` has them."""

from __future__ import annotations

import numpy as np
import torch

from gptwo.config import GPT2Config
from gptwo.explanation.reference import Reference
from gptwo.model import equations
from model_cases import random_model

# Odd sizes, and weights with which every parameter matters.
CONFIG = GPT2Config(n_layer=3, n_head=3, n_embd=21, context=65, vocab_size=101, n_inner=50, dropout=0.1)


def reference(config: GPT2Config = CONFIG, dtype: torch.dtype = torch.float64, seed: int = 0) -> Reference:
    model = random_model(config, dtype=dtype, seed=seed)
    return Reference(config, {name: p.detach() for name, p in model.named_parameters()}, "random")


def weights_of(reference: Reference) -> equations.Weights:
    """The paper's matrices, views of the reference's parameters."""
    return equations.paper_weights(reference.parameters, reference.config.n_layer, reference.config.n_head)


def some_tokens(count: int, config: GPT2Config = CONFIG, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab_size, count)
