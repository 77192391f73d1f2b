from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config as HFConfig

from gptwo.base.errors import CheckpointError
from gptwo.checkpoint.released_config import config_to_hf, read_config
from gptwo.config import PRESETS, GPT2Config

# config.json of the published gpt2, as its authors' repository has it (without its task settings).
RELEASED: dict[str, Any] = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "vocab_size": 50257,
}


def write(folder: Path, values: object) -> Path:
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_the_published_file_is_the_published_size(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, RELEASED)) == PRESETS["gpt2"]


def test_each_setting_is_read(tmp_path: Path) -> None:
    values = {**RELEASED, "n_positions": 7, "n_inner": 50, "resid_pdrop": 0.25, "layer_norm_epsilon": 1e-3}
    config = read_config(write(tmp_path, values))
    assert (config.context, config.n_inner, config.dropout, config.layer_norm_epsilon) == (7, 50, 0.25, 1e-3)


def test_n_ctx_serves_where_n_positions_is_missing(tmp_path: Path) -> None:
    values = {**RELEASED, "n_ctx": 33}
    del values["n_positions"]
    assert read_config(write(tmp_path, values)).context == 33


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("model_type", None),
        ("activation_function", "gelu"),
        ("activation_function", "relu"),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("tie_word_embeddings", 0),
        ("quantization_config", {"bits": 4}),
    ],
)
def test_another_computation_is_refused_and_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_config(write(tmp_path, {**RELEASED, key: value}))
    message = str(caught.value)
    assert f"{key}={json.dumps(value)}; expected" in message
    assert "\n" not in message


def test_the_two_names_of_the_tanh_form_are_taken(tmp_path: Path) -> None:
    for name in ("gelu_new", "gelu_pytorch_tanh"):
        assert read_config(write(tmp_path, {**RELEASED, "activation_function": name})) == PRESETS["gpt2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_embd": 770}, "n_embd=770 is not divisible by n_head=12"),
        ({"n_layer": "12"}, "n_layer='12' is not possible"),
        ({"resid_pdrop": None}, "is not a possible GPT-2"),
        ({"layer_norm_epsilon": "small"}, "is not a possible GPT-2"),
    ],
)
def test_impossible_shapes_name_the_file(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        read_config(write(tmp_path, {**RELEASED, **change}))
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["n_layer", "n_head", "n_embd", "vocab_size"])
def test_a_file_that_does_not_give_the_shape_is_refused(tmp_path: Path, key: str) -> None:
    values = {name: value for name, value in RELEASED.items() if name != key}
    with pytest.raises(CheckpointError, match=f"has no {key};"):
        read_config(write(tmp_path, values))


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is not JSON"), ("[]", "holds a JSON list"), ("\xff", "not JSON")]
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=said):
        read_config(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing; expected a model folder"):
        read_config(tmp_path)


configs = st.builds(
    lambda heads, width, **rest: GPT2Config(n_head=heads, n_embd=heads * width, **rest),
    heads=st.integers(1, 30),
    width=st.integers(1, 100),
    n_layer=st.integers(1, 100),
    context=st.integers(1, 10**6),
    vocab_size=st.integers(1, 10**6),
    n_inner=st.none() | st.integers(1, 10**5),
    dropout=st.floats(0.0, 1.0, exclude_max=True),
    layer_norm_epsilon=st.floats(1e-12, 1.0),
)


@given(config=configs, eot_id=st.none() | st.integers(0, 10**6))
def test_what_is_written_is_read_back_by_us_and_by_transformers(
    tmp_path_factory: pytest.TempPathFactory, config: GPT2Config, eot_id: int | None
) -> None:
    folder = tmp_path_factory.getbasetemp()
    write(folder, config_to_hf(config, eot_id=eot_id, dtype="float64"))
    assert read_config(folder) == config
    theirs = HFConfig.from_pretrained(folder)
    assert (theirs.bos_token_id, theirs.eos_token_id, str(theirs.dtype)) == (eot_id, eot_id, "torch.float64")
    assert (theirs.n_positions, theirs.n_inner, theirs.attn_pdrop) == (
        config.context,
        config.n_inner,
        config.dropout,
    )
