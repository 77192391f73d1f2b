"""Settings of a run: each is a flag and a TOML key of one name, and what cannot be is refused in one line."""

from __future__ import annotations

import argparse
import dataclasses
import math
import tomllib
from typing import Any

import pytest
import tomli_w

from gptwo.base.errors import ConfigError
from gptwo.cli import build_parser
from gptwo.config import TrainConfig

FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}
AT_LEAST_1 = ["batch_tokens", "steps", "eval_every", "save_every", "keep_last", "log_every"]
AT_LEAST_1_OR_NONE = ["n_layer", "n_head", "n_embd", "context", "micro_batch", "eval_tokens"]
AT_LEAST_0 = ["warmup_steps", "sample_tokens", "seed"]
FINITE = ["weight_decay", "grad_clip", "lr", "muon_lr", "min_lr"]
BELOW_1 = ["beta1", "beta2"]


def message(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{"data": "d", "out": "o", **changes})
    return str(caught.value)


@pytest.mark.parametrize("value", [0, -1, -(2**62)])
@pytest.mark.parametrize("name", AT_LEAST_1 + AT_LEAST_1_OR_NONE)
def test_counts_are_at_least_1(name: str, value: int) -> None:
    assert message(**{name: value}) == (
        f"{name}={value} is not possible; expected a whole number of at least 1"
    )


@pytest.mark.parametrize("name", AT_LEAST_0)
def test_some_counts_may_be_0(name: str) -> None:
    assert message(**{name: -1}) == f"{name}=-1 is not possible; expected 0 or more"
    assert getattr(TrainConfig(**{"data": "d", "out": "o", name: 0}), name) == 0


@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", FINITE)
def test_rates_are_finite(name: str, value: float) -> None:
    assert message(**{name: value}) == f"{name}={value} is not possible; expected a finite number >= 0"


@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0, math.nan])
@pytest.mark.parametrize("name", BELOW_1)
def test_betas_are_below_1(name: str, value: float) -> None:
    assert message(**{name: value}) == f"{name}={value} is not possible; expected 0 <= {name} < 1"


@pytest.mark.parametrize("value", [-1e-9, 0.02, math.nan, math.inf])
def test_the_last_rate_is_not_above_the_first(value: float) -> None:
    assert message(lr=0.01, min_lr=value) == (
        f"min_lr={value} is not possible; expected 0 <= min_lr <= lr=0.01"
    )
    assert TrainConfig(data="d", out="o", lr=0.01, min_lr=0.01).min_lr == 0.01


@pytest.mark.parametrize("value", [0.0, -0.1, 1.5, math.nan])
def test_the_share_of_decay_is_a_share(value: float) -> None:
    assert message(decay_fraction=value) == (
        f"decay_fraction={value} is not possible; expected 0 < decay_fraction <= 1"
    )
    assert TrainConfig(data="d", out="o", decay_fraction=1.0).decay_fraction == 1.0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("data", 1, "text"),
        ("data", None, "text"),
        ("out", ["o"], "text"),
        ("model", {}, "text"),
        ("sample_prompt", 5, "text"),
        ("device", None, "text"),
        ("steps", 1.0, "a whole number"),
        ("steps", "1", "a whole number"),
        ("steps", True, "a whole number"),
        ("steps", None, "a whole number"),
        ("n_layer", 1.5, "a whole number"),
        ("n_layer", False, "a whole number"),
        ("lr", "1e-3", "a number"),
        ("lr", True, "a number"),
        ("dropout", "none", "a number"),
        ("compile", 1, "true or false"),
        ("compile", "true", "true or false"),
        ("checkpoint_activations", None, "true or false"),
        ("dtype", "fp16", "one of 'auto', 'fp32', 'bf16'"),
        ("dtype", None, "one of 'auto', 'fp32', 'bf16'"),
        ("optimizer", "sgd", "one of 'auto', 'adamw', 'muon'"),
        ("schedule", None, "one of 'auto', 'cosine', 'wsd', 'linear'"),
        ("track", "wandb", "one of 'none', 'tensorboard', 'trackio'"),
    ],
)
def test_types(name: str, value: Any, expected: str) -> None:
    assert message(**{name: value}) == f"{name}={value!r} is not possible; expected {expected}"


@pytest.mark.parametrize("name", [*AT_LEAST_1, *AT_LEAST_1_OR_NONE, *AT_LEAST_0, *FINITE])
def test_whole_numbers_fit_into_64_bits(name: str) -> None:
    assert message(**{name: 2**63}) == f"{name}={2**63} is not possible; expected at most 2**63 - 1"
    assert getattr(TrainConfig(**{"data": "d", "out": "o", name: 2**63 - 1}), name) == 2**63 - 1


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.type == "str"])
def test_text_can_be_kept(name: str) -> None:
    assert message(**{name: "a\udcff"}) == f"{name}='a\\udcff' is not possible; expected text in UTF-8"


def test_a_whole_number_may_stand_for_a_rate() -> None:
    assert TrainConfig(data="d", out="o", lr=1, grad_clip=0).lr == 1


# --- mappings -----------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_mapping({"data": "d", "out": "o", "batch_size": 12}, where="mine.toml")
    assert str(caught.value) == (f"mine.toml: unknown key 'batch_size'; expected one of {', '.join(FIELDS)}")


@pytest.mark.parametrize("name", ["data", "out"])
def test_a_missing_key_is_named_with_its_flag(name: str) -> None:
    settings = {"data": "d", "out": "o"}
    del settings[name]
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_mapping(settings, where="mine.toml")
    assert str(caught.value) == (
        f"mine.toml: {name!r} is missing; give --{name} {name.upper()}: {FIELDS[name].metadata['help']}"
    )


def changed(name: str) -> Any:
    """A possible value of a setting that is not its default."""
    if name in ("data", "out", "model", "device", "sample_prompt"):
        return f'{name} "tiếng" \\ \n'
    if name in ("compile", "checkpoint_activations", "force"):
        return True
    return {
        "dtype": "bf16",
        "track": "tensorboard",
        "parallel": "fsdp",
        "dropout": 0.3,
        "optimizer": "muon",
        "schedule": "linear",
        "decay_fraction": 0.4,
        "min_lr": 1e-5,
        "beta1": 0.5,
        "beta2": 0.6,
    }.get(name, 7)


def test_every_setting_survives_toml() -> None:
    config = TrainConfig(**{name: changed(name) for name in FIELDS})
    for name, field in FIELDS.items():
        assert getattr(config, name) != field.default, name
    again = TrainConfig.from_mapping(tomllib.loads(tomli_w.dumps(config.to_mapping())))
    assert again == config
    assert set(config.to_mapping()) == set(FIELDS)


def test_what_is_open_is_left_out() -> None:
    config = TrainConfig(data="d", out="o")
    mapping = config.to_mapping()
    assert None not in mapping.values()
    recipe = {"lr", "muon_lr", "min_lr", "warmup_steps", "decay_fraction", "weight_decay", "beta2", "compile"}
    assert set(FIELDS) - set(mapping) == {*recipe, "dropout", *AT_LEAST_1_OR_NONE}
    assert TrainConfig.from_mapping(mapping) == config


def test_model_changes_are_the_shape_alone() -> None:
    config = TrainConfig(**{name: changed(name) for name in FIELDS})
    assert config.model_changes() == {"n_layer": 7, "n_head": 7, "n_embd": 7, "context": 7, "dropout": 0.3}
    assert TrainConfig(data="d", out="o").model_changes() == {}


# --- flags --------------------------------------------------------------------------------------------------------


def flags_of_train() -> dict[str, argparse.Action]:
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {action.dest: action for action in commands.choices["train"]._actions}


def test_every_setting_is_a_flag_and_every_flag_a_setting() -> None:
    flags = flags_of_train()
    assert set(flags) - set(FIELDS) == {"help", "config", "resume", "json"}
    assert set(FIELDS) - set(flags) == set()
    for name, field in FIELDS.items():
        assert "--" + name.replace("_", "-") in flags[name].option_strings
        assert flags[name].help is not None
        assert flags[name].help.startswith(field.metadata["help"])


@pytest.mark.parametrize("name", FIELDS)
def test_a_flag_gives_its_setting_the_right_type(name: str) -> None:
    value = changed(name)
    flag = "--" + name.replace("_", "-")
    arguments = ["train", flag] if value is True else ["train", f"{flag}={value}"]
    given = vars(build_parser().parse_args(arguments))
    assert {key: given[key] for key in FIELDS if key in given} == {name: value}
    config = TrainConfig.from_mapping({"data": "d", "out": "o", name: given[name]})
    assert getattr(config, name) == value


def test_a_switch_can_be_turned_off() -> None:
    given = vars(build_parser().parse_args(["train", "--no-compile"]))
    assert given["compile"] is False
