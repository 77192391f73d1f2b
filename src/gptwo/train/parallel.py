"""One model over several ranks: whole on each of them (DDP), or a part of every parameter on each (FSDP2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config, TrainConfig
from gptwo.model import GPT2
from gptwo.train.distributed import World
from gptwo.train.step import LossSum


def share_weights(model: GPT2) -> GPT2:
    """Rank 0's weights into the model of every rank."""
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)
    return model


def sharded(whole: GPT2 | None, config: TrainConfig, world: World, *, device: torch.device) -> GPT2:
    """Rank 0's model ``whole`` (None elsewhere) with a part of every parameter on each rank (FSDP2, Zhao et al. 2023).

    A block is whole only while it computes. The embeddings and the last norm are one unit, the root's, so E is whole as
    the embedding and as the head. Weights travel in fp32, and autocast makes bf16 of them where it does without
    sharding: the arithmetic is the same. Raises ``ConfigError`` for a model with adapters.
    """
    shape = GPT2Config(**world.share(dataclasses.asdict(whole.config) if whole else None))
    model = GPT2(shape, device="meta", checkpoint_activations=config.checkpoint_activations)
    weights = whole.state_dict() if whole else {}
    if whole and weights.keys() != model.state_dict().keys():
        raise ConfigError("parallel='fsdp' does not shard adapters, which are small; expected parallel='ddp'")
    mesh = init_device_mesh(device.type, (world.size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "loss")
    model.to_empty(device=device)
    fill(model, weights)
    return model


def is_sharded(model: GPT2) -> bool:
    return isinstance(model, FSDPModule)


def forget_forward(model: GPT2) -> None:
    """Give up what a forward pass that an error broke off on every rank has gathered on each of them."""
    # Older torch gives it up with the next pass.
    if isinstance(model, FSDPModule) and hasattr(model, "reset_iter_state"):
        model.reset_iter_state()


def fill(model: GPT2, weights: Mapping[str, Tensor]) -> None:
    """Put rank 0's ``weights``, which nobody else needs, into the sharded model of every rank."""
    reshard(model)
    for name, parameter in model.named_parameters():
        _spread(weights.get(name), parameter.detach(), parameter.device)


def spread_tensors(
    whole: Mapping[str, Tensor] | None, world: World, model: GPT2, *, device: torch.device
) -> dict[str, Tensor]:
    """Rank 0's tensors (None elsewhere) on every rank; those that are of a sharded parameter, sharded as it is.

    A tensor is of a parameter when its name holds the parameter's between dots and its shape is the same.
    """
    described = {n: [list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in (whole or {}).items()}
    parameters = {f".{name}.": p for name, p in model.named_parameters() if isinstance(p, DTensor)}
    spread = {}
    for name, (shape, dtype) in world.share(described).items():
        owner = next((p for key, p in parameters.items() if key in f".{name}."), None)
        if owner is not None and list(owner.shape) == shape:
            spread[name] = torch.empty_like(owner, dtype=getattr(torch, dtype), requires_grad=False)
        else:
            spread[name] = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        _spread(whole[name] if whole else None, spread[name], device)
    return spread


def _spread(whole: Tensor | None, target: Tensor, device: torch.device) -> None:
    """Fill ``target``, or this rank's part of it, with rank 0's values."""
    if not isinstance(target, DTensor):
        if whole is not None and whole is not target:
            target.copy_(whole)
        dist.broadcast(target, src=0)
        return
    if whole is None:
        whole = torch.empty(target.shape, dtype=target.dtype, device=device)
    part = distribute_tensor(whole.detach().to(device), target.device_mesh, target.placements)
    target.to_local().copy_(part.to_local())


class ReplicatedLoss(nn.Module):
    """Summed loss of a micro-batch of this rank; every ``micro_batches``-th one averages the gradients over the ranks.

    The gradients of the micro-batches before are summed on the rank alone, so a step communicates once.
    """

    def __init__(self, model: GPT2, loss_sum: LossSum, *, micro_batches: int) -> None:
        super().__init__()
        self._replica = DistributedDataParallel(
            _Loss(model, loss_sum), init_sync=False, gradient_as_bucket_view=True
        )
        self._micro_batches = micro_batches
        self._calls = 0

    def forward(self, *micro_batch: Tensor) -> Tensor:
        self._calls += 1
        # What decides is the flag during the forward pass, which arms the hooks of the backward pass.
        self._replica.require_backward_grad_sync = self._calls % self._micro_batches == 0
        loss: Tensor = self._replica(*micro_batch)
        return loss


class _Loss(nn.Module):
    """DDP averages the gradients of a module's ``forward``: here, the loss itself."""

    def __init__(self, model: GPT2, loss_sum: LossSum) -> None:
        super().__init__()
        self.model = model
        self.loss_sum = loss_sum

    def forward(self, *micro_batch: Tensor) -> Tensor:
        return self.loss_sum(*micro_batch)


def whole_model(model: GPT2, world: World) -> GPT2:
    """A sharded model whole, on rank 0 in the memory of its host; without weights elsewhere."""
    reshard(model)
    whole = GPT2(model.config, device="meta")
    weights = whole_tensors(model.state_dict(), world)
    if world.writes:
        whole.load_state_dict(weights, assign=True)
    return whole


def whole_tensors(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Every tensor whole, on rank 0 in the memory of its host; elsewhere an empty mapping."""
    whole = {}
    for name, tensor in tensors.items():
        value = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if world.writes:
            whole[name] = value.cpu()
    return whole


def reshard(model: GPT2) -> None:
    """Give up the whole root that a forward pass without a backward pass leaves on each rank."""
    if isinstance(model, FSDPModule):
        model.reshard()
