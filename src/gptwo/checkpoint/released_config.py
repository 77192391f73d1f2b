"""``config.json`` as the released checkpoints and transformers write it, to and from ``GPT2Config``. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptwo.base.errors import CheckpointError, ConfigError
from gptwo.checkpoint.layout import ADAPTER_CONFIG_NAME, CONFIG_NAME, read_json_object
from gptwo.checkpoint.resolve import resolve_config, resolve_model
from gptwo.config import GPT2Config

# What decides the computation beside the shape: key, the values that GPT-2 computes with, and the value of a file
# that does not say (transformers' own defaults). Anything else is refused: a model must not load and then be wrong.
_COMPUTATION: tuple[tuple[str, tuple[object, ...], object], ...] = (
    ("model_type", ("gpt2",), None),
    # Two names of the same tanh form (paper §4.2).
    ("activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new"),
    ("scale_attn_weights", (True,), True),
    ("scale_attn_by_inverse_layer_idx", (False,), False),
    ("add_cross_attention", (False,), False),
    ("tie_word_embeddings", (True,), True),
    ("quantization_config", (None,), None),
)


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds an adapter over a base that lies elsewhere, and no model of its own."""
    return (folder / ADAPTER_CONFIG_NAME).is_file() and not (folder / CONFIG_NAME).exists()


def resolve_shape(name: str) -> Path:
    """The folder that says the shape of the model ``name``: its own, or its base's for an adapter.

    No weights are read, and none fetched: of a model on the hub, and of a base there, the config alone.
    """
    folder = resolve_config(name)
    passed: list[Path] = []
    while is_adapter(folder):
        passed.append(folder)
        folder = adapter_base(folder, resolve=resolve_config)
        if folder in passed:
            raise CheckpointError(f"{folder} is an adapter over itself; expected a model as its base")
    return folder


def adapter_base(folder: Path, *, resolve: Callable[[str], Path] = resolve_model) -> Path:
    """The folder of the base that the adapter in ``folder`` names; ``CheckpointError`` when it is not there.

    ``resolve`` is ``resolve_config`` for whoever needs no weights.
    """
    path = folder / ADAPTER_CONFIG_NAME
    name = read_json_object(path).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{path} names no base; expected base_model_name_or_path; write it there")
    try:
        base = resolve(name)
    except CheckpointError as error:
        raise CheckpointError(
            f"the base of the adapter {folder} is not there: {error}; put it back, write where it is now into "
            f"{ADAPTER_CONFIG_NAME}, or give it to gptwo merge with --base"
        ) from error
    if base.resolve() == folder.resolve():
        raise CheckpointError(f"{path} names itself as its base; expected the model that it was trained on")
    return base


def read_config(folder: Path) -> GPT2Config:
    """The shape of the model in ``folder``, from its config.json; of an adapter, its base's.

    The released files have three dropouts (embeddings, attention, residuals) and ours is one: ``resid_pdrop``
    is taken, which in every published checkpoint equals the other two. Raises ``CheckpointError`` when the file is
    missing or broken, or describes a computation that is not GPT-2's.
    """
    if is_adapter(folder):
        return read_config(adapter_base(folder))
    path = folder / CONFIG_NAME
    values = read_json_object(path)
    for key, allowed, default in _COMPUTATION:
        value = values.get(key, default)
        if not any(value is one or (isinstance(one, str) and value == one) for one in allowed):
            expected = " or ".join(json.dumps(one) for one in allowed)
            raise CheckpointError(
                f"{path} has {key}={json.dumps(value)}; expected {expected}: "
                "this model computes something else than GPT-2; give a GPT-2 checkpoint"
            )
    context_key = "n_positions" if "n_positions" in values else "n_ctx"
    for key in ("n_layer", "n_head", "n_embd", "vocab_size", context_key):
        if key not in values:
            raise CheckpointError(f"{path} has no {key}; expected a GPT-2 config.json; save the model again")
    try:
        return GPT2Config(
            n_layer=values["n_layer"],
            n_head=values["n_head"],
            n_embd=values["n_embd"],
            context=values[context_key],
            vocab_size=values["vocab_size"],
            n_inner=values.get("n_inner"),
            dropout=float(values.get("resid_pdrop", 0.1)),
            layer_norm_epsilon=float(values.get("layer_norm_epsilon", 1e-5)),
        )
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a possible GPT-2: {error}") from error


def config_to_hf(config: GPT2Config, *, eot_id: int | None, dtype: str) -> dict[str, Any]:
    """The contents of a config.json that transformers loads as ``GPT2LMHeadModel``.

    ``dtype`` as torch names it without its prefix ("float32"). GPT-2 begins and ends a text with the same token,
    ``eot_id``; a tokenizer without one gives nulls, so that transformers does not put id 50256 there.
    """
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": config.n_inner,
        "n_positions": config.context,
        "n_ctx": config.context,
        "vocab_size": config.vocab_size,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "initializer_range": 0.02,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        # Read by transformers 4 and 5 alike; 5 writes it as "dtype".
        "torch_dtype": dtype,
    }


def generation_config_to_hf(*, eot_id: int | None) -> dict[str, Any]:
    """The contents of a generation_config.json: where transformers' ``generate`` begins and stops."""
    return {"_from_model_config": True, "bos_token_id": eot_id, "eos_token_id": eot_id}
