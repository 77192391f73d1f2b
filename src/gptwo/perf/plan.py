"""What training will cost before it begins: FLOPs, bytes, peak memory, time, and money where a price is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gptwo.base.errors import ConfigError
from gptwo.config import GPT2Config
from gptwo.costs import (
    OptimizerName,
    activation_bytes,
    parameter_count,
    training_flops,
    weight_bytes,
)
from gptwo.perf.communication import Communication, Parallel, communication
from gptwo.perf.expected_loss import ExpectedLoss, expected_loss
from gptwo.perf.predict import Prediction, predict_training_step
from gptwo.perf.target import Target, measured_process_bytes
from gptwo.train.micro_batch import derive_micro_batch, sequences_per_step, step_memory


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What a micro-batch keeps for its backward pass, the peak with it, and the time of a step; None is not known."""

    bytes: int
    peak_memory_bytes: int
    seconds_per_step: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A run as it is expected to be, on ``ranks`` devices alike. Bytes, seconds, tokens; times are None where unknown.

    ``ceilings``: where the device's speeds are from, "measured" (``measured_at``) or "datasheet".
    ``trained_parameters`` are fewer than all where adapters are trained, whose time is not known. ``memory`` has the
    parts of ``peak_memory_bytes``, of one device; ``free_memory_bytes`` may be taken, None where nobody knows.
    ``largest_micro_batch`` is the most sequences that fit at once, be they more than a step's; 0 when not one does.
    ``activations`` are those of the micro-batch "kept" and "checkpointed". ``seconds_per_step`` has the exposed part of
    ``communication`` in it. ``cost`` is in the unit of the price.
    """

    device: str
    title: str
    ceilings: str | None
    measured_at: str | None = None
    parameters: int
    trained_parameters: int
    weight_bytes: int
    dtype: str
    optimizer: str
    checkpoint_activations: bool
    tokens_per_step: int
    steps: int
    tokens: int
    ranks: int
    micro_batch: int
    largest_micro_batch: int | None
    flops_per_step: int
    flops: int
    memory: dict[str, int]
    peak_memory_bytes: int
    free_memory_bytes: int | None
    activations: dict[str, Activations]
    seconds_per_step: float | None = None
    floor_seconds_per_step: float | None = None
    bound_by: str | None = None
    tokens_per_s: float | None = None
    seconds: float | None = None
    communication: Communication | None = None
    cost: float | None = None
    expected_loss: ExpectedLoss | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the memory is there; None where nobody knows how much there is."""
        return None if self.free_memory_bytes is None else self.peak_memory_bytes <= self.free_memory_bytes

    def to_json(self) -> dict[str, Any]:
        """The fields, and ``fits``, as JSON has them."""
        return {**dataclasses.asdict(self), "fits": self.fits}


def plan_training(
    config: GPT2Config,
    target: Target,
    *,
    batch_tokens: int,
    steps: int,
    dtype: str = "auto",
    optimizer: OptimizerName = "adamw",
    micro_batch: int | None = None,
    checkpoint_activations: bool = False,
    compiled: bool = False,
    adapters: int | None = None,
    process_bytes: int | None = None,
    ranks: int = 1,
    parallel: Parallel = "ddp",
    text_tokens: int | None = None,
    from_scratch: bool = True,
    price_per_hour: float | None = None,
) -> TrainingPlan:
    """``steps`` steps of ``batch_tokens`` tokens over ``ranks`` such devices, as ``gptwo train`` would take them.

    ``dtype`` "auto" is bf16 where the device has it in hardware. ``micro_batch`` None is what ``gptwo train`` would
    choose in the memory there is, all sequences at once where that is not known. ``adapters`` are parameters trained
    beside a frozen model, whose time is not known. ``process_bytes`` the program itself takes; None is what was
    measured with the ceilings, if they were. ``price_per_hour`` is of one device. No loss is expected but
    ``from_scratch``. Without a known speed of the device, or of the link between several, there are no times and no
    cost. ``ConfigError`` for a step that cannot be cut so, and for bf16 on a machine of the table that has none.
    """
    bf16 = target.has_bf16 if dtype == "auto" else dtype == "bf16"
    if bf16 and target.machine is not None and not target.has_bf16:
        raise ConfigError(
            f"{target.title} trains in bf16 by emulation alone, which is slow; expected --dtype fp32"
        )
    sequences = sequences_per_step(batch_tokens, config.context)
    if sequences < ranks:
        raise ConfigError(
            f"batch_tokens={batch_tokens} is {sequences} sequences, and there are {ranks} devices; "
            f"expected {ranks * config.context} or more"
        )
    share = -(-sequences // ranks)
    on_cpu = target.kind == "cpu"
    fused = on_cpu and not bf16 and not compiled and adapters is None
    parameter_ranks = ranks if parallel == "fsdp" else 1
    free = target.memory_bytes
    if process_bytes is None:
        process_bytes = measured_process_bytes(target, "train")

    def memory_of(at_once: int, checkpointed: bool = checkpoint_activations) -> dict[str, int]:
        # More at once than a step has, which only the most that fits is asked for, is a step of so many.
        parts = step_memory(
            config,
            max(share, at_once),
            micro_batch=at_once,
            optimizer=optimizer,
            checkpoint_activations=checkpointed,
            dtype="bf16" if bf16 else "fp32",
            fused=fused,
            on_cpu=on_cpu,
            adapters=adapters,
            parameter_ranks=parameter_ranks,
        )
        return {"process": process_bytes, **parts}

    if micro_batch is None:
        micro_batch = share
        if free is not None:
            micro_batch = derive_micro_batch(
                config,
                share,
                available_bytes=free,
                checkpoint_activations=checkpoint_activations,
                fused=fused,
                on_cpu=on_cpu,
                parameter_ranks=parameter_ranks,
            )
    micro_batch = min(micro_batch, share)
    memory = memory_of(micro_batch)
    flops = training_flops(config, batch=sequences, tokens=config.context)
    plan = TrainingPlan(
        device=target.device,
        title=target.title,
        ceilings=None,
        parameters=parameter_count(config),
        trained_parameters=parameter_count(config) if adapters is None else adapters,
        weight_bytes=weight_bytes(config),
        dtype="bf16" if bf16 else "fp32",
        optimizer=optimizer,
        checkpoint_activations=checkpoint_activations,
        tokens_per_step=batch_tokens,
        steps=steps,
        tokens=steps * batch_tokens,
        ranks=ranks,
        micro_batch=micro_batch,
        largest_micro_batch=None if free is None else _largest_micro_batch(memory_of, share=share, free=free),
        flops_per_step=flops,
        flops=steps * flops,
        memory=memory,
        peak_memory_bytes=sum(memory.values()),
        free_memory_bytes=free,
        activations={
            name: Activations(
                bytes=micro_batch
                * activation_bytes(
                    config,
                    checkpoint_activations=checkpointed,
                    fused=fused,
                    on_cpu=on_cpu,
                    dtype="bf16" if bf16 else "fp32",
                ),
                peak_memory_bytes=sum(memory_of(micro_batch, checkpointed).values()),
            )
            for name, checkpointed in (("kept", False), ("checkpointed", True))
        },
        expected_loss=(
            expected_loss(config, tokens=steps * batch_tokens, text_tokens=text_tokens)
            if from_scratch
            else None
        ),
    )
    if adapters is not None:
        return plan
    return _with_times(plan, config, target, share=share, parallel=parallel, price_per_hour=price_per_hour)


def _with_times(
    plan: TrainingPlan,
    config: GPT2Config,
    target: Target,
    *,
    share: int,
    parallel: Parallel,
    price_per_hour: float | None,
) -> TrainingPlan:
    ceilings = target.ceilings(training=True)
    if ceilings is None or (plan.ranks > 1 and target.link_bytes_per_s is None):
        return plan

    def step(checkpointed: bool) -> tuple[Prediction, Communication | None]:
        predicted = predict_training_step(
            config,
            ceilings,
            sequences=share,
            micro_batch=plan.micro_batch,
            dtype=plan.dtype,
            checkpoint_activations=checkpointed,
            optimizer="muon" if plan.optimizer == "muon" else "adamw",
        )
        if plan.ranks == 1 or target.link_bytes_per_s is None:
            return predicted, None
        return predicted, communication(
            config,
            ranks=plan.ranks,
            parallel=parallel,
            micro_batches=-(-share // plan.micro_batch),
            compute_s=predicted.seconds,
            link_bytes_per_s=target.link_bytes_per_s,
        )

    steps = {"kept": step(False), "checkpointed": step(True)}
    times = {
        name: predicted.seconds + (exchanged.exposed_seconds if exchanged else 0.0)
        for name, (predicted, exchanged) in steps.items()
    }
    chosen = "checkpointed" if plan.checkpoint_activations else "kept"
    (predicted, exchanged), seconds_per_step = steps[chosen], times[chosen]
    seconds = plan.steps * seconds_per_step
    return dataclasses.replace(
        plan,
        ceilings=ceilings.source,
        measured_at=ceilings.measured_at or None,
        activations={
            name: dataclasses.replace(one, seconds_per_step=times[name])
            for name, one in plan.activations.items()
        },
        seconds_per_step=seconds_per_step,
        floor_seconds_per_step=predicted.floor_seconds,
        bound_by=predicted.bound_by,
        tokens_per_s=plan.tokens_per_step / seconds_per_step,
        seconds=seconds,
        communication=exchanged,
        cost=None if price_per_hour is None else plan.ranks * price_per_hour * seconds / 3600,
    )


def _largest_micro_batch(memory_of: Callable[[int], dict[str, int]], *, share: int, free: int) -> int:
    """The most sequences at once. A step whose ``share`` is one micro-batch adds to no earlier gradients."""
    if sum(memory_of(share).values()) > free:
        return largest_that_fits(memory_of, most=share - 1, there=free)
    most = share
    while sum(memory_of(2 * most).values()) <= free:
        most *= 2
    return largest_that_fits(memory_of, most=2 * most, there=free, least=most)


def largest_that_fits(
    memory_of: Callable[[int], dict[str, int]], *, most: int, there: int, least: int = 0
) -> int:
    """The greatest number up to ``most`` that takes no more bytes than ``there``, at least ``least``.

    ``memory_of`` must not fall with its number from ``least`` on.
    """
    fits, too_many = least, most + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if sum(memory_of(middle).values()) <= there:
            fits = middle
        else:
            too_many = middle
    return fits
