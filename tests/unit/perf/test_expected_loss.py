"""The scaling laws, against their papers' constants by hand."""

from __future__ import annotations

import dataclasses

import pytest

from gptwo.config import PRESETS
from gptwo.perf.expected_loss import expected_loss

GPT2 = PRESETS["gpt2"]


def test_both_laws_of_gpt2_after_ten_billion_tokens() -> None:
    found = expected_loss(GPT2, tokens=10**10)
    assert found is not None
    # N = 85,056,000 in the blocks: (752,445^0.73786 + 1,800)^0.103, worked with logarithms.
    assert found.kaplan == pytest.approx(2.82, abs=0.01)
    # 1.69 + 406.4/565.2 + 410.7/631.0.
    assert found.hoffmann == pytest.approx(1.69 + 0.719 + 0.651, abs=0.002)


def test_more_text_and_more_parameters_lower_it() -> None:
    small, long, large = (
        expected_loss(config, tokens=tokens)
        for config, tokens in ((GPT2, 10**9), (GPT2, 10**10), (PRESETS["gpt2-xl"], 10**9))
    )
    assert small
    assert long
    assert large
    assert long.kaplan < small.kaplan
    assert long.hoffmann < small.hoffmann
    assert large.kaplan < small.kaplan
    assert large.hoffmann < small.hoffmann


def test_a_text_read_a_fifth_time_teaches_nothing_more() -> None:
    four = expected_loss(GPT2, tokens=4_000_000, text_tokens=1_000_000)
    assert four == expected_loss(GPT2, tokens=4_000_000)
    assert four == expected_loss(GPT2, tokens=90_000_000, text_tokens=1_000_000)


def test_it_says_nothing_of_another_tokenizer() -> None:
    assert expected_loss(dataclasses.replace(GPT2, vocab_size=4096), tokens=10**9) is None
