"""How much memory a server takes, and when it says no."""

from __future__ import annotations

from typing import Any

import pytest

from gptwo.base.errors import ConfigError
from gptwo.serve.kv_budget import KVBudget, kv_budget
from gptwo.serve.settings import ServeSettings


def budget(left: int, *, paged: bool = True, **settings: Any) -> KVBudget:
    chosen = ServeSettings(**{"slots": 8, **settings})
    return kv_budget(
        chosen,
        context=1000,
        bytes_per_token=100,
        model_bytes={"weights": 70_000, "workspace": 30_000},
        free_bytes=left + 100_000,
        paged=paged,
    )


def test_all_that_the_slots_can_use_where_there_is_room() -> None:
    assert budget(10**9) == KVBudget(slots=8, tokens=8000, bytes=800_000)


def test_a_quarter_of_what_is_free_but_one_text_at_least() -> None:
    assert budget(1_600_000).tokens == 4000
    assert budget(200_000).tokens == 1000


def test_what_was_asked_for() -> None:
    assert budget(10**9, kv_tokens=2500).tokens == 2500
    assert budget(10**9, kv_memory_bytes=250_099) == KVBudget(8, 2500, 250_000)
    assert budget(10**9, kv_tokens=10**6).tokens == 8000, "more could never be used"


def test_slots_with_memory_of_their_own_are_fewer_where_it_is_short() -> None:
    assert budget(10**9, paged=False) == KVBudget(8, 8000, 800_000)
    assert budget(10**9, paged=False, kv_tokens=2999) == KVBudget(2, 2000, 200_000)
    assert budget(200_000, paged=False) == KVBudget(1, 1000, 100_000)


def test_what_does_not_hold_one_text_is_refused_with_numbers() -> None:
    for asked in ({"kv_tokens": 999}, {"kv_memory_bytes": 99_999}):
        with pytest.raises(ConfigError) as caught:
            budget(10**9, **asked)
        assert "999 tokens (99.9 kB) does not hold one text of the model's context of 1,000" in str(
            caught.value
        )
        assert "--kv-tokens 1000 or more" in str(caught.value)


def test_what_is_not_there_is_refused_with_numbers() -> None:
    with pytest.raises(ConfigError) as caught:
        budget(500_000, kv_tokens=5000)
    assert "5,000 tokens takes 500 kB" in str(caught.value)
    assert "beside the model 500 kB of this machine's memory are free; expected at most 4,000" in str(
        caught.value
    )
    assert budget(500_000, kv_tokens=5000, force=True).tokens == 5000


def test_a_model_beside_which_no_text_fits_is_refused_with_its_parts() -> None:
    assert budget(125_000).tokens == 1000
    with pytest.raises(ConfigError) as caught:
        budget(124_000)
    assert str(caught.value) == (
        "serving this model takes 225 kB of memory (weights 70 kB, workspace 30 kB, a text of 1,000 tokens and some "
        "room 125 kB), and this machine has 224 kB free; end other programs, take a smaller model, --dtype int8, "
        "or --force to try it all the same"
    )
    assert budget(124_000, force=True) == KVBudget(8, 1000, 100_000)
    assert budget(-50_000, force=True).tokens == 1000, "not even the weights fit"
