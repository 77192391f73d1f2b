"""The shape of a model: what cannot be is refused in a line that says what can; the sizes are the published ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from gptwo.base.errors import ConfigError, GptwoError
from gptwo.config import PRESETS, GPT2Config, preset

COUNTS = ["n_layer", "n_head", "n_embd", "context", "vocab_size", "n_inner"]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 2.0, "12", True])
def test_counts_are_whole_numbers_of_at_least_1(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        GPT2Config(**{name: value})
    assert str(error.value) == f"{name}={value!r} is not possible; expected a whole number of at least 1"


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "n_inner"])
def test_only_n_inner_may_be_left_open(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}=None is not possible"):
        GPT2Config(**{name: None})  # type: ignore[arg-type]
    assert GPT2Config(n_inner=None).mlp_width == 4 * 768


@pytest.mark.parametrize(
    ("n_embd", "n_head", "nearest"),
    [
        (770, 12, "nearest widths are 768 and 780"),
        (779, 12, "nearest widths are 768 and 780"),
        (5, 12, "nearest width is 12"),  # 0 is no width
    ],
)
def test_a_width_that_the_heads_do_not_divide_names_its_neighbours(
    n_embd: int, n_head: int, nearest: str
) -> None:
    with pytest.raises(ConfigError) as error:
        GPT2Config(n_embd=n_embd, n_head=n_head)
    assert str(error.value) == f"n_embd={n_embd} is not divisible by n_head={n_head}; {nearest}"
    for width in map(int, (word for word in nearest.split() if word.isdigit())):
        assert GPT2Config(n_embd=width, n_head=n_head).n_embd == width


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan, math.inf, "0.1", None, True])
def test_dropout_out_of_range(value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        GPT2Config(dropout=value)
    assert str(error.value) == f"dropout={value!r} is not possible; expected 0 <= dropout < 1"


@pytest.mark.parametrize("value", [0.0, -1e-5, math.nan, math.inf, "1e-5", None, True])
def test_epsilon_out_of_range(value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        GPT2Config(layer_norm_epsilon=value)
    assert str(error.value) == f"layer_norm_epsilon={value!r} is not possible; expected a finite number > 0"


def test_a_configuration_error_is_the_users_and_a_value_error() -> None:
    assert issubclass(ConfigError, GptwoError)
    assert issubclass(ConfigError, ValueError)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPT2Config().n_layer = 3  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"^n_embd=768 is not divisible by n_head=5"):
        dataclasses.replace(GPT2Config(), n_head=5)


def test_published_sizes() -> None:
    shapes = {name: (c.n_layer, c.n_head, c.n_embd) for name, c in PRESETS.items() if name.startswith("gpt2")}
    assert shapes == {
        "gpt2": (12, 12, 768),
        "gpt2-medium": (24, 16, 1024),
        "gpt2-large": (36, 20, 1280),
        "gpt2-xl": (48, 25, 1600),
    }
    for name in shapes:
        config = preset(name)
        assert (config.context, config.vocab_size, config.dropout) == (1024, 50257, 0.1)
        assert (config.head_width, config.mlp_width) == (64, 4 * config.n_embd)


def test_small_sizes_grow() -> None:
    widths = [preset(name).n_embd for name in ("nano", "micro", "mini", "gpt2")]
    assert widths == sorted(set(widths))


def test_an_unknown_size_lists_the_sizes() -> None:
    with pytest.raises(ConfigError) as error:
        preset("gpt3")
    assert str(error.value) == (
        "there is no size 'gpt3'; expected one of gpt2, gpt2-medium, gpt2-large, gpt2-xl, nano, micro, mini"
    )


def test_mlp_width() -> None:
    assert GPT2Config(n_embd=6, n_head=2, n_inner=7).mlp_width == 7
    assert GPT2Config(n_embd=6, n_head=2).mlp_width == 24
    assert GPT2Config(n_embd=6, n_head=2).head_width == 3
