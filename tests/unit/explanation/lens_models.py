"""The same weights in TransformerLens, whole as they are: nothing is folded and nothing centred."""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from typing import Any

import pytest
import torch

from gptwo.config import GPT2Config
from gptwo.explanation.reference import Reference

FOLDER = "GPTWO_TRANSFORMER_LENS"
REASON = (
    "transformer-lens is not installed; `pip install --no-deps transformer-lens einops fancy-einsum beartype "
    f"typeguard`, in a folder that {FOLDER} names (as .ci/run does) or beside gptwo"
)


@cache
def library() -> Any:
    """The package ``transformer_lens``. The test is skipped where there is none."""
    if folder := os.environ.get(FOLDER):
        sys.path.append(folder)
    try:
        return importlib.import_module("transformer_lens")
    except ModuleNotFoundError:
        pytest.skip(REASON)


def lens_model(reference: Reference) -> Any:
    """Its own transformer, built by hand for the reference's shape and filled with its weights; nothing is fetched."""
    lens = library()
    from transformer_lens.config import TransformerBridgeConfig

    dtype = reference.E.dtype
    shape = TransformerBridgeConfig(**_shape(reference.config), device="cpu", dtype=dtype)
    model = lens.TransformerBridge.boot_native(shape, device="cpu", dtype=dtype)
    parameters = dict(model.original_model.named_parameters())
    given = _weights(reference)
    assert {name.replace("._original_component", "") for name in parameters} == set(given)
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = given[name.replace("._original_component", "")]
            assert parameter.shape == value.shape, name
            parameter.copy_(value)
    return model.eval().requires_grad_(False)


def _shape(config: GPT2Config) -> dict[str, Any]:
    return {
        "d_model": config.n_embd,
        "d_head": config.head_width,
        "d_mlp": config.mlp_width,
        "d_vocab": config.vocab_size,
        "n_layers": config.n_layer,
        "n_heads": config.n_head,
        "n_ctx": config.context,
        "act_fn": "gelu_new",
        "normalization_type": "LN",
        "eps": config.layer_norm_epsilon,
    }


def _weights(reference: Reference) -> dict[str, torch.Tensor]:
    """Under its names. Both keep matrices as out×in."""
    found = {
        "tok_embed.weight": reference.E,
        "pos.weight": reference.parameters["position_embedding.weight"],
        "head.weight": reference.E,
    }
    for part in ("weight", "bias"):
        found[f"ln_out.{part}"] = reference.parameters[f"final_norm.{part}"]
        for i in range(reference.config.n_layer):
            qkv = reference.of_block(i, f"attention.qkv.{part}").chunk(3)
            found |= {f"layers.{i}.attn.{name}.{part}": one for name, one in zip("qkv", qkv, strict=True)}
            for theirs, ours in (
                ("ln1", "attention_norm"),
                ("attn.o", "attention.output"),
                ("ln2", "mlp_norm"),
                ("mlp.fc_in", "mlp.up"),
                ("mlp.fc_out", "mlp.down"),
            ):
                found[f"layers.{i}.{theirs}.{part}"] = reference.of_block(i, f"{ours}.{part}")
    return found
