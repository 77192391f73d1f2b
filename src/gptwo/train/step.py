"""One optimizer step over the micro-batches of its batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gptwo.model import GPT2
from gptwo.train.distributed import ALONE, World

if TYPE_CHECKING:
    from jaxtyping import Int

# Of (tokens, targets) or (tokens, targets, documents).
LossSum = Callable[..., Tensor]


@dataclass(frozen=True)
class StepResult:
    """The loss in nats per token, the norm of the gradient before clipping, and whether the update was ``applied``.

    It is not when one of the two is no finite number: weights and optimizer are then as before the step.
    """

    loss: float
    gradient_norm: float
    applied: bool


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Make what is random in step s (dropout) follow from (seed, s, rank) alone, so that a resumed run repeats it."""
    (state,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state))


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """bf16 products with fp32 weights and sums, or nothing for fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if dtype == "bf16" else nullcontext()


def optimizer_step(
    model: GPT2,
    loss_sum: LossSum,
    optimizer: torch.optim.Optimizer,
    micro_batches: Iterable[tuple[Int[Tensor, "B T"], ...]],
    *,
    predicted_tokens: int,
    lr_factor: float,
    grad_clip: float,
    dtype: str = "fp32",
    world: World = ALONE,
) -> StepResult:
    """Sum the gradients of all micro-batches, clip to norm ``grad_clip`` (0: never), update.

    Each group's learning rate is the one that it was built with times ``lr_factor`` (``schedule.schedule_factor``).

    Each micro-batch adds its summed loss, and the sum is divided by the step's ``predicted_tokens``, so that N
    micro-batches are one batch: a mean of means would weigh unequal ones wrongly. ``predicted_tokens`` are those
    of all ranks, which average their sums, so that the divisor is a rank's mean share of them.
    """
    loss, norm = accumulate_gradients(model, loss_sum, optimizer, micro_batches, dtype=dtype)
    loss, divisor = world.mean(loss), predicted_tokens / world.size
    nats, norm_of_sum = torch.stack((loss, norm)).tolist()  # the one wait for the device
    finite = math.isfinite(nats) and math.isfinite(norm_of_sum)
    if finite:
        update(
            model,
            optimizer,
            norm,
            predicted_tokens=divisor,
            lr_factor=lr_factor,
            grad_clip=grad_clip,
        )
    return StepResult(nats / divisor, norm_of_sum / divisor, applied=finite)


def accumulate_gradients(
    model: GPT2,
    loss_sum: LossSum,
    optimizer: torch.optim.Optimizer,
    micro_batches: Iterable[tuple[Int[Tensor, "B T"], ...]],
    *,
    dtype: str,
) -> tuple[Tensor, Tensor]:
    """The summed loss of all micro-batches and the norm of its gradient, scalars on the device.

    The gradient itself is left in ``grad``.
    """
    device = model.token_embedding.weight.device
    loss = torch.zeros((), device=device)
    optimizer.zero_grad(set_to_none=True)
    for micro_batch in micro_batches:
        with autocast(device, dtype):
            part = loss_sum(*micro_batch)
        part.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
        loss += part.detach()
    norm = torch.nn.utils.get_total_norm(_gradients(model)).float()
    # Of sharded gradients it is a DTensor, told without importing torch.distributed.
    return loss, norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def update(
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    norm: Tensor,
    *,
    predicted_tokens: float,
    lr_factor: float,
    grad_clip: float,
) -> None:
    """Divide the summed gradient, of norm ``norm``, by ``predicted_tokens``, clip it, take the optimizer's step."""
    # The mean and the clip in one pass over the gradients, which at GPT-2's size do not fit a cache.
    share = (grad_clip / (norm / predicted_tokens + 1e-6)).clamp(max=1.0) if grad_clip > 0 else 1.0
    torch._foreach_mul_(_gradients(model), share / predicted_tokens)
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * lr_factor
    optimizer.step()


def _gradients(model: GPT2) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]
