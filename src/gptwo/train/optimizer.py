"""AdamW with GPT-2's decay groups, and its state as named tensors, so that a checkpoint needs no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gptwo.base.errors import CheckpointError
from gptwo.config import TrainConfig
from gptwo.model import GPT2

_PREFIX = "optimizer"


def parameter_groups(model: GPT2, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, the embeddings among them; biases and the gains of layer norms do not. None that is frozen."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def build_adamw(model: GPT2, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over the decay groups; one fused kernel where the device has it."""
    device_type = next(model.parameters()).device.type
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=device_type in ("cpu", "cuda"),
    )


def optimizer_tensors(model: GPT2, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of every parameter as ``optimizer.<parameter name>.<what>``: step, exp_avg, exp_avg_sq."""
    return {
        f"{_PREFIX}.{name}.{what}": value
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for what, value in optimizer.state[parameter].items()
    }


def restore_optimizer(model: GPT2, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` returned, bit for bit. ``CheckpointError`` when a tensor is missing."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        state = {}
        for what in ("step", "exp_avg", "exp_avg_sq"):
            key = f"{_PREFIX}.{name}.{what}"
            if key not in tensors:
                raise CheckpointError(
                    f"training.safetensors has no {key!r}; the checkpoint is of another optimizer: start a new run"
                )
            # AdamW keeps its step counter in float32 beside the parameter (fused) or on the CPU.
            state[what] = tensors[key].to(parameter.device, copy=True)
        optimizer.state[parameter] = state
