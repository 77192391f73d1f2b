from __future__ import annotations

from typing import Any

import pytest

from gptwo.base.errors import ConfigError
from gptwo.config import PRESETS, TrainConfig
from gptwo.train.recipes import RECIPES, recipe, resolve_recipe


def resolved(**changes: Any) -> TrainConfig:
    config = TrainConfig(data="d", out="o", **changes)
    return resolve_recipe(config, PRESETS.get(config.model, PRESETS["micro"]))


@pytest.mark.parametrize("name", PRESETS)
def test_every_size_has_a_recipe_that_leaves_nothing_open(name: str) -> None:
    for optimizer in ("auto", "adamw", "muon"):
        config = resolved(model=name, optimizer=optimizer)
        for setting in ("lr", "min_lr", "warmup_steps", "weight_decay", "beta2"):
            assert getattr(config, setting) is not None, setting
        assert "auto" not in (config.optimizer, config.schedule)
        assert (config.muon_lr is None) == (config.optimizer == "adamw")
        assert (config.decay_fraction is None) == (config.schedule != "wsd")
        assert resolve_recipe(config, PRESETS[name]) == config, "what a run keeps is resolved for good"


def test_auto_is_muon_for_a_fresh_model_and_adamw_from_a_checkpoint_or_sharded() -> None:
    assert resolved(model="nano", parallel="fsdp").optimizer == "adamw"
    assert resolved(model="nano").optimizer == "muon"
    assert resolved(model="runs/mine").optimizer == "adamw"
    assert resolved(model="runs/mine", optimizer="muon").optimizer == "muon"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_given_stays(optimizer: str) -> None:
    given: dict[str, Any] = {
        "optimizer": optimizer, "lr": 0.5, "schedule": "wsd", "min_lr": 0.125,
        "warmup_steps": 0, "decay_fraction": 0.75, "weight_decay": 0.0, "beta2": 0.0,
    }  # fmt: skip
    if optimizer == "muon":
        given["muon_lr"] = 0.25
    config = resolved(**given)
    assert {name: getattr(config, name) for name in given} == given


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"optimizer": "adamw", "muon_lr": 0.1}, "muon_lr=0.1 is of no use to adamw"),
        ({"schedule": "cosine", "decay_fraction": 0.5}, "decay_fraction=0.5 is of no use to cosine"),
    ],
)
def test_a_setting_without_effect_is_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        resolved(**settings)


def test_the_floor_follows_the_rate_that_was_given() -> None:
    assert resolved(optimizer="adamw", lr=0.5).min_lr == pytest.approx(0.05)


def test_a_short_run_warms_up_for_a_fifth_of_it_at_most() -> None:
    assert resolved(steps=10).warmup_steps == 2
    assert resolved(steps=10, warmup_steps=8).warmup_steps == 8


@pytest.mark.parametrize("optimizer", RECIPES)
def test_larger_models_have_lower_rates(optimizer: str) -> None:
    sizes = [
        PRESETS[name] for name in ("nano", "micro", "mini", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    ]
    rates = [recipe(optimizer, shape).lr for shape in sizes]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[3]
    assert set(RECIPES[optimizer]) == {recipe(optimizer, shape) for shape in sizes}, "none is unreachable"
