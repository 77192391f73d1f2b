"""Adapters in peft's format: adapter_config.json and adapter_model.safetensors, over a base that lies elsewhere.

    adapter_config.json        peft's own keys; base_model_name_or_path says where the base is
    adapter_model.safetensors  base_model.model.transformer.h.0.attn.c_attn.lora_A.weight (r×in), lora_B (out×r), …
    adapter_base.json          {"sha256": of the base's weights}, ours alone; an adapter from elsewhere has none

A and B lie as ours do: only the base's matrices are transposed in the released layout (``fan_in_fan_out``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptwo.base.errors import CheckpointError, ConfigError, TokenizerError
from gptwo.checkpoint.layout import (
    ADAPTER_BASE_NAME,
    ADAPTER_CONFIG_NAME,
    ADAPTER_WEIGHTS_NAME,
    CONFIG_NAME,
    read_json_object,
)
from gptwo.checkpoint.names import parameter_table
from gptwo.checkpoint.released_config import adapter_base, is_adapter, read_config
from gptwo.checkpoint.resolve import resolve_model
from gptwo.checkpoint.store import TrainingState, save_checkpoint, write_checkpoint
from gptwo.checkpoint.tensor_file import read_tensor_file
from gptwo.checkpoint.weights import load_weights
from gptwo.config import GPT2Config
from gptwo.model.gpt2 import GPT2
from gptwo.model.lora import TARGETS, LoraConfig, adapters
from gptwo.tokenizer import Tokenizer

_PREFIX = "base_model.model."
_TENSOR = re.compile(r"base_model\.model\.(?:transformer\.)?(h\.\d+\..+)\.lora_(A|B)\.weight")
# What an adapter may have been trained with that computes something else: the key, and the values that do not.
_PLAIN: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("peft_type", ("LORA",)),
    ("bias", ("none", None)),
    ("use_dora", (False, None)),
    ("use_rslora", (False, None)),
    ("lora_bias", (False, None)),
    ("modules_to_save", (None, [])),
    ("rank_pattern", ({}, None)),
    ("alpha_pattern", ({}, None)),
    ("layer_replication", (None,)),
)


@dataclass(frozen=True)
class Base:
    """What an adapter was trained on: where it is, and the hash of its weights."""

    name: str
    sha256: str


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes: the same wherever and however the model was saved."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_adapter(
    folder: Path,
    *,
    model: GPT2,
    lora: LoraConfig,
    base: Base,
    tokenizer: Tokenizer | None,
    training: TrainingState | None,
) -> Path:
    """Write the adapters of ``model`` into ``folder``, whole or not at all; errors as ``save_checkpoint``."""
    settings = {
        ADAPTER_CONFIG_NAME: _config_to_peft(lora, base),
        ADAPTER_BASE_NAME: {"sha256": base.sha256},
    }
    tensors = {ADAPTER_WEIGHTS_NAME: _released_adapters(model)}
    return write_checkpoint(folder, settings, tensors, tokenizer, training)


def merged_weights(
    folder: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    base: Path | None = None,
) -> dict[str, Tensor]:
    """The base's weights with the adapter added, W + (α/r) B A: ``load_weights`` of the adapter in ``folder``.

    The sum is made in fp32 and kept in ``dtype``, None for the base's. ``base`` says where the base lies now. Raises
    ``CheckpointError`` when it is missing or is not the one that the adapter was trained on, or for an adapter that
    computes something else than LoRA on the four projections.
    """
    lora_scale = _scale(folder)
    base_folder = base or adapter_base(folder)
    weights = load_weights(base_folder, device=device)
    require_base(folder, base_folder, weights)
    low_rank = load_adapter(folder, read_config(base_folder), device=device)
    for name, (A, B) in low_rank.items():
        weight = weights[f"{name}.weight"]
        weights[f"{name}.weight"] = (weight.float() + lora_scale * (B.float() @ A.float())).to(weight.dtype)
    return {name: tensor.to(dtype or tensor.dtype) for name, tensor in weights.items()}


def merge(adapter: str | Path, out: Path, *, base: str | None = None) -> Path:
    """Write ``adapter`` and its base as one checkpoint into the new folder ``out``; errors as ``merged_weights``."""
    folder = resolve_model(adapter)
    if not is_adapter(folder):
        raise CheckpointError(
            f"{folder} is no adapter: it has a {CONFIG_NAME} of its own; it needs no merging"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is there already; expected a new or empty folder; choose another name")
    base_folder = resolve_model(base) if base is not None else adapter_base(folder)
    # An adapter from elsewhere may have no tokenizer, and a base without one is a model all the same.
    tokenizer = _tokenizer(folder) or _tokenizer(base_folder)
    weights = merged_weights(folder, device="cpu", base=base_folder)
    return save_checkpoint(
        out, config=read_config(base_folder), weights=weights, tokenizer=tokenizer, training=None
    )


def _tokenizer(folder: Path) -> Tokenizer | None:
    try:
        return Tokenizer.load(folder)
    except TokenizerError:
        return None


def require_base(folder: Path, base_folder: Path, weights: Mapping[str, Tensor]) -> None:
    """``CheckpointError`` unless ``weights``, as stored, are those that the adapter in ``folder`` was trained on."""
    if not (folder / ADAPTER_BASE_NAME).is_file():
        return
    expected, got = read_json_object(folder / ADAPTER_BASE_NAME).get("sha256"), weights_sha256(weights)
    if got != expected:
        raise CheckpointError(
            f"{base_folder} is not the base of {folder}: the SHA-256 of its weights is {got[:12]}…; expected "
            f"{str(expected)[:12]}…; give the model that it was trained on"
        )


def load_adapter(
    folder: Path, config: GPT2Config, *, device: torch.device | str
) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) by the name of their projection, ``blocks.0.attention.qkv``; errors as ``merged_weights``."""
    rank = _peft_config(folder)["r"]
    shapes = {
        row.released.removeprefix("transformer.").removesuffix(".weight"): (row.ours, row.shape)
        for row in parameter_table(config)
        if row.transposed
    }
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_tensor_file(folder / ADAPTER_WEIGHTS_NAME, device=device).items():
        match = _TENSOR.fullmatch(name)
        if match is None or match[1] not in shapes:
            raise CheckpointError(
                f"{folder}: {name} is no adapter of a projection of this GPT-2; expected lora_A and lora_B of "
                "c_attn, c_proj or c_fc; merge it where it was trained"
            )
        ours, (outputs, inputs) = shapes[match[1]]
        expected = (rank, inputs) if match[2] == "A" else (outputs, rank)
        if tuple(tensor.shape) != expected:
            raise CheckpointError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}; expected {expected}; give the base it belongs to"
            )
        found.setdefault(ours.removesuffix(".weight"), {})[match[2]] = tensor
    for name, pair in found.items():
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(
                f"{folder}: {name} has only lora_{''.join(pair)}; expected both; copy it again"
            )
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


def restore_adapters(model: GPT2, folder: Path) -> None:
    """Put the adapter in ``folder`` into the adapters of ``model``; ``CheckpointError`` unless they match."""
    modules = dict(adapters(model))
    device = model.token_embedding.weight.device
    loaded = load_adapter(folder, model.config, device=device)
    if loaded.keys() != modules.keys():
        raise CheckpointError(f"{folder} adapts other projections than this run; use another checkpoint")
    with torch.no_grad():
        for name, (A, B) in loaded.items():
            modules[name].lora_A.copy_(A)
            modules[name].lora_B.copy_(B)


def _released_adapters(model: GPT2) -> dict[str, Tensor]:
    released = {row.ours: row.released.removesuffix(".weight") for row in parameter_table(model.config)}
    tensors = {}
    for name, module in adapters(model):
        path = _PREFIX + released[f"{name}.weight"]
        tensors[f"{path}.lora_A.weight"] = module.lora_A.detach()
        tensors[f"{path}.lora_B.weight"] = module.lora_B.detach()
    return tensors


def _config_to_peft(lora: LoraConfig, base: Base) -> dict[str, Any]:
    one_layer = GPT2Config(n_layer=1, n_head=1, n_embd=1)
    released = {row.ours: row.released for row in parameter_table(one_layer)}
    paths = [released[f"blocks.0.{TARGETS[name]}.weight"] for name in lora.targets]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [path.removeprefix("transformer.h.0.").removesuffix(".weight") for path in paths],
        "fan_in_fan_out": True,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _peft_config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG_NAME
    config = read_json_object(path)
    for key, allowed in _PLAIN:
        if config.get(key, allowed[0] if key != "peft_type" else None) not in allowed:
            raise CheckpointError(
                f"{path} has {key}={config.get(key)!r}; expected {allowed[0]!r}: this adapter computes something else "
                "than plain LoRA; merge it with peft and give the merged model"
            )
    return config


def _scale(folder: Path) -> float:
    config = _peft_config(folder)
    try:
        return LoraConfig(rank=config["r"], alpha=config["lora_alpha"]).scale
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG_NAME} has no possible r and lora_alpha: {error}"
        ) from error
