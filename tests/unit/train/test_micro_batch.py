from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from tests.tolerance import Tolerance
from torch import Tensor

from gptwo.base.errors import ConfigError
from gptwo.config import PRESETS, GPT2Config
from gptwo.costs import activation_bytes, parameter_count
from gptwo.model import build_model
from gptwo.train.micro_batch import derive_micro_batch, sequences_per_step

CONFIG = PRESETS["nano"]


def derive(sequences: int, available: int) -> int:
    return derive_micro_batch(
        CONFIG, sequences, available_bytes=available, checkpoint_activations=False, fused=True, on_cpu=True
    )


def test_everything_at_once_when_there_is_room() -> None:
    assert derive(12, 1 << 40) == 12


def test_an_even_cut_that_fits_in_half_of_what_the_weights_leave() -> None:
    each = activation_bytes(CONFIG, checkpoint_activations=False, fused=True, on_cpu=True)
    fixed = 16 * parameter_count(CONFIG)
    # Room for 5 of 12: three pieces of 4, rather than 5 + 5 + 2.
    assert derive(12, fixed + 2 * 5 * each + 2) == 4
    assert derive(12, fixed + 2 * 6 * each + 2) == 6


def test_one_sequence_at_least_even_when_memory_is_short() -> None:
    assert derive(12, 1) == 1


def test_checkpointing_needs_less() -> None:
    deep = GPT2Config(n_layer=24, n_head=2, n_embd=64, context=32, vocab_size=64)
    with_it, without = (
        activation_bytes(deep, checkpoint_activations=flag, fused=True, on_cpu=True) for flag in (True, False)
    )
    assert with_it < without / 4


SHAPE = GPT2Config(n_layer=4, n_head=4, n_embd=64, context=96, vocab_size=31, dropout=0.0)
# The head keeps E's gradient too, 31 values of 64, and one-off tensors of D: a few percent at this size.
NEARLY = Tolerance(rtol=0.1, why="what is kept once for all blocks, and masks of one byte")


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_the_formula_is_what_is_kept(fused: bool, dropout: float) -> None:
    """Every storage that autograd holds after the forward pass, weights apart, counted once."""
    shape = replace(SHAPE, dropout=dropout)
    model = build_model(shape, seed=0, device="cpu").train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, Tensor] = {}

    def hold(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.zeros(2, shape.context, dtype=torch.long)
    with (
        torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor),
        patch("gptwo.model.fused_linear._SMALLEST", 0 if fused else 1 << 62),
    ):
        model.loss(tokens, tokens, reduction="sum")
    kept = sum(tensor.untyped_storage().nbytes() for tensor in held.values()) / 2
    expected = activation_bytes(shape, checkpoint_activations=False, fused=fused, on_cpu=True)
    NEARLY.assert_close(kept, expected)


def test_tokens_per_step_are_whole_sequences() -> None:
    assert sequences_per_step(768, 64) == 12
    with pytest.raises(
        ConfigError, match=r"batch_tokens=50 is not a multiple of the context of 64; nearest: 64$"
    ):
        sequences_per_step(50, 64)
