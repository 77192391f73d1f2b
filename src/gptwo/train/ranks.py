"""What a run does alone, done by several ranks: the model, its loss, the state of its optimizer.

``parallel.py``, which is slow to import, is only needed when there are several.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gptwo.checkpoint.store import TrainingState, load_training_state
from gptwo.config import TrainConfig
from gptwo.model import GPT2
from gptwo.train.distributed import World, is_loss_of_a_rank
from gptwo.train.optimizer import optimizer_tensors
from gptwo.train.setup import loss_function
from gptwo.train.step import LossSum


def model_on_ranks(
    build: Callable[[Path | None, torch.device], GPT2],
    start: Path | None,
    config: TrainConfig,
    *,
    device: torch.device,
    world: World,
) -> GPT2:
    """``build(start, device)`` with rank 0's weights on every rank; only rank 0 has to have the folder ``start``.

    To shard a model, rank 0 needs the memory for all of its weights, on the host.
    """
    if world.size == 1:
        return build(start, device)
    from gptwo.train.parallel import sharded, share_weights

    own = start if world.writes else None
    if config.parallel == "ddp":
        return share_weights(build(own, device))
    whole = build(own, torch.device("cpu")) if world.writes else None
    return sharded(whole, config, world, device=device)


def is_sharded(model: GPT2, world: World) -> bool:
    """Whether the model computes on all ranks or on none."""
    if world.size == 1:
        return False
    from gptwo.train import parallel

    return parallel.is_sharded(model)


def leave_forward(model: GPT2, error: Exception, world: World) -> None:
    """After ``error`` in a forward pass: leave the model as before it, when all ranks had one alike.

    Raises ``error`` when they had not and the model is sharded: the others wait for this rank, and cannot go on.
    """
    if not is_sharded(model, world):
        return
    from gptwo.train.parallel import forget_forward

    if is_loss_of_a_rank(error) or not world.all_failed():
        raise error
    forget_forward(model)


def loss_on_ranks(model: GPT2, config: TrainConfig, world: World, *, sequences: int) -> LossSum:
    """``setup.loss_function``, whose backward pass also averages the gradients over the ranks."""
    loss_sum = loss_function(model, compile_step=bool(config.compile))
    if world.size == 1 or config.parallel == "fsdp":  # FSDP's hooks are in the model
        return loss_sum
    from gptwo.train.parallel import ReplicatedLoss

    micro_batches = len(list(world.cuts(sequences, config.micro_batch or sequences)))
    return ReplicatedLoss(model, loss_sum, micro_batches=micro_batches)


def restore_on_ranks(restore: Callable[[Path, GPT2], None], folder: Path, model: GPT2, world: World) -> None:
    """``restore(folder, model)`` on rank 0, and its weights in the model of every rank."""
    if world.size == 1:
        restore(folder, model)
        return
    from gptwo.train.parallel import fill, share_weights

    if not is_sharded(model, world):
        if world.writes:
            restore(folder, model)
        share_weights(model)
        return
    weights = {}
    if world.writes:
        whole = GPT2(model.config, device="cpu")
        restore(folder, whole)
        weights = whole.state_dict()
    fill(model, weights)


def training_state_on_ranks(start: Path, model: GPT2, world: World, *, device: torch.device) -> TrainingState:
    """The training state in ``start``, which rank 0 alone reads, on every rank: sharded where the model is."""
    if world.size == 1:
        return load_training_state(start)
    from gptwo.train.parallel import spread_tensors

    state = load_training_state(start) if world.writes else None
    step, info = world.share((state.step, state.info) if state else None)
    tensors = spread_tensors(state.tensors if state else None, world, model, device=device)
    return TrainingState(step, tensors, info)


def whole_state(
    model: GPT2, optimizer: torch.optim.Optimizer, world: World
) -> tuple[GPT2, dict[str, Tensor]]:
    """The model and the optimizer's state, each tensor whole on rank 0; elsewhere not to be used.

    Those of a sharded model are copies in the memory of rank 0's host.
    """
    tensors = optimizer_tensors(model, optimizer)
    if not is_sharded(model, world):
        return model, tensors
    from gptwo.train.parallel import whole_model, whole_tensors

    return whole_model(model, world), whole_tensors(tensors, world)
