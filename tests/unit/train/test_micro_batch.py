from __future__ import annotations

import pytest

from gptwo.base.errors import ConfigError
from gptwo.config import PRESETS, GPT2Config
from gptwo.costs import parameter_count
from gptwo.train.micro_batch import activation_bytes, derive_micro_batch, sequences_per_step

CONFIG = PRESETS["nano"]


def derive(sequences: int, available: int) -> int:
    return derive_micro_batch(CONFIG, sequences, available_bytes=available, checkpoint_activations=False)


def test_everything_at_once_when_there_is_room() -> None:
    assert derive(12, 1 << 40) == 12


def test_an_even_cut_that_fits_in_half_of_what_the_weights_leave() -> None:
    each = activation_bytes(CONFIG, checkpoint_activations=False)
    fixed = 16 * parameter_count(CONFIG)
    # Room for 5 of 12: three pieces of 4, rather than 5 + 5 + 2.
    assert derive(12, fixed + 2 * 5 * each + 2) == 4
    assert derive(12, fixed + 2 * 6 * each + 2) == 6


def test_one_sequence_at_least_even_when_memory_is_short() -> None:
    assert derive(12, 1) == 1


def test_checkpointing_needs_less() -> None:
    deep = GPT2Config(n_layer=24, n_head=2, n_embd=64, context=32, vocab_size=64)
    with_it, without = (activation_bytes(deep, checkpoint_activations=flag) for flag in (True, False))
    assert with_it < without / 4


def test_tokens_per_step_are_whole_sequences() -> None:
    assert sequences_per_step(768, 64) == 12
    with pytest.raises(
        ConfigError, match=r"batch_tokens=50 is not a multiple of the context of 64; nearest: 64$"
    ):
        sequences_per_step(50, 64)
