"""The optimizer of a run over GPT-2's groups, and its state as named tensors, so that a checkpoint needs no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gptwo.base.errors import CheckpointError, ConfigError
from gptwo.config import TrainConfig
from gptwo.model import GPT2
from gptwo.train.muon import Muon

_PREFIX = "optimizer"
# Of each block; Q, K and V are stored as one matrix and orthogonalised as three.
_MUON_PIECES = {
    "attention.qkv.weight": 3,
    "attention.output.weight": 1,
    "mlp.up.weight": 1,
    "mlp.down.weight": 1,
}


def parameter_groups(model: GPT2, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, the embeddings among them; biases and the gains of layer norms do not. No frozen ones."""
    return _decay_groups([p for p in model.parameters() if p.requires_grad], weight_decay)


def _decay_groups(parameters: list[torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def muon_groups(model: GPT2, config: TrainConfig) -> list[dict[str, Any]]:
    """Two groups for AdamW (embeddings; biases and gains), then the blocks' matrices with ``pieces`` for Muon."""
    weight_decay, lr = config.resolved("weight_decay"), config.resolved("muon_lr")
    matrices: dict[int, list[torch.nn.Parameter]] = {}
    others = []
    for name, parameter in model.named_parameters():
        pieces = _MUON_PIECES.get(name.split(".", 2)[-1]) if name.startswith("blocks.") else None
        if not parameter.requires_grad:
            continue
        if hasattr(parameter, "placements"):  # a DTensor, told without importing torch.distributed
            raise ConfigError(
                "optimizer='muon' needs whole matrices and these are sharded; expected parallel='ddp', "
                "or optimizer='adamw' from the first step on"
            )
        if pieces is None:
            others.append(parameter)
        else:
            matrices.setdefault(pieces, []).append(parameter)
    return [
        *_decay_groups(others, weight_decay),
        *(
            {"params": found, "pieces": pieces, "lr": lr, "weight_decay": weight_decay}
            for pieces, found in matrices.items()
        ),
    ]


def build_optimizer(model: GPT2, config: TrainConfig) -> torch.optim.Optimizer:
    """What ``config`` says: AdamW (Loshchilov & Hutter 2019), or Muon for the blocks' matrices and AdamW for the rest.

    AdamW is one fused kernel where the device has it. Muon works in bf16 on CUDA and in fp32 elsewhere, where bf16 is
    slow. ``config`` is resolved (``recipes.resolve_recipe``).
    """
    device_type = next(model.parameters()).device.type
    lr, fused = config.resolved("lr"), device_type in ("cpu", "cuda")
    betas = (config.beta1, config.resolved("beta2"))
    if config.optimizer == "muon":
        dtype = torch.bfloat16 if device_type == "cuda" else torch.float32
        return Muon(muon_groups(model, config), lr=lr, betas=betas, dtype=dtype, fused=fused)
    groups = parameter_groups(model, config.resolved("weight_decay"))
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused)


def optimizer_tensors(model: GPT2, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of every parameter that learns, as ``optimizer.<parameter name>.<what>``.

    What: ``step``, ``exp_avg`` and ``exp_avg_sq`` under AdamW, ``momentum_buffer`` under Muon.
    """
    return {
        f"{_PREFIX}.{name}.{what}": value
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for what, value in optimizer.state[parameter].items()
    }


def restore_optimizer(model: GPT2, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` returned, bit for bit. ``CheckpointError`` when a tensor is missing.

    A run that was stopped before its first update has no state, and goes on without.
    """
    if not any(name.startswith(f"{_PREFIX}.") for name in tensors):
        return
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        whats = ("momentum_buffer",) if group.get("pieces") else ("step", "exp_avg", "exp_avg_sq")
        for parameter in group["params"]:
            state = {}
            for what in whats:
                key = f"{_PREFIX}.{name_of[parameter]}.{what}"
                if key not in tensors:
                    raise CheckpointError(
                        f"training.safetensors has no {key!r}; the checkpoint is of another optimizer: start a new run"
                    )
                # AdamW keeps its step counter in float32 beside the parameter (fused) or on the CPU.
                state[what] = tensors[key].to(parameter.device, copy=True)
            optimizer.state[parameter] = state
