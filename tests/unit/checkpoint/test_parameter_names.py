from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import GPT2Config as HFConfig
from transformers import GPT2LMHeadModel

from gptwo.checkpoint.names import parameter_table
from gptwo.config import PRESETS, GPT2Config
from gptwo.model.gpt2 import GPT2

CONFIGS = {
    **PRESETS,
    "odd": GPT2Config(n_layer=3, n_head=3, n_embd=21, context=17, vocab_size=101, n_inner=50),
    "square": GPT2Config(n_layer=1, n_head=1, n_embd=8, context=8, vocab_size=8, n_inner=8),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_is_a_bijection_between_our_parameters_and_transformers(name: str) -> None:
    config = CONFIGS[name]
    table = parameter_table(config)
    with torch.device("meta"):
        ours = GPT2(config).state_dict()
        theirs = GPT2LMHeadModel(
            HFConfig(
                n_layer=config.n_layer,
                n_head=config.n_head,
                n_embd=config.n_embd,
                n_positions=config.context,
                vocab_size=config.vocab_size,
                n_inner=config.n_inner,
            )
        ).state_dict()
    del theirs["lm_head.weight"]  # tied: E once more

    assert {row.ours: row.shape for row in table} == {name: tuple(t.shape) for name, t in ours.items()}
    assert {row.released: row.released_shape for row in table} == {
        n: tuple(t.shape) for n, t in theirs.items()
    }
    assert len({row.ours for row in table}) == len({row.released for row in table}) == len(table)


def test_exactly_the_projections_of_a_block_are_transposed() -> None:
    transposed = {row.released for row in parameter_table(CONFIGS["square"]) if row.transposed}
    assert transposed == {
        f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_the_exact_counts_of_the_published_sizes() -> None:
    counts = {
        name: sum(torch.Size(row.shape).numel() for row in parameter_table(PRESETS[name]))
        for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    }
    assert list(counts.values()) == [124_439_808, 354_823_168, 774_030_080, 1_557_611_200]


def test_rows_cannot_be_changed() -> None:
    row = parameter_table(CONFIGS["square"])[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.ours = "other"  # type: ignore[misc]
