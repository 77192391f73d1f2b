"""Plans as a person reads them, and beside what it really was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptwo.base.units import duration, in_units, rate, short_time
from gptwo.perf.expected_loss import SOURCE
from gptwo.perf.generation_plan import GenerationPlan
from gptwo.perf.machines import MACHINES
from gptwo.perf.plan import TrainingPlan

if TYPE_CHECKING:
    from gptwo.train.observer import Took

# A time that is off by more wants a reason.
_FAR = 0.15
_NO_SPEED = "not known: `gptwo plan MODEL` measures this machine, once"


def training_lines(plan: TrainingPlan) -> list[str]:
    """The whole of it, a line for each thing."""
    several = "" if plan.ranks == 1 else f" on {plan.ranks} devices"
    kept = ", activations checkpointed" if plan.checkpoint_activations else ""
    lines = [
        f"{plan.parameters:,} parameters ({in_units(plan.weight_bytes)} in fp32), {plan.steps:,} steps of "
        f"{plan.tokens_per_step:,} tokens{several}, {plan.dtype}, {plan.optimizer}, "
        f"{_sequences(plan.micro_batch)} at a time{kept}",
        _memory_line(plan),
        _activations_line(plan),
    ]
    if plan.largest_micro_batch is not None:
        most = plan.largest_micro_batch
        lines.append(
            f"most at a time  {_sequences(most)} would fit"
            if most
            else "most at a time  not one sequence fits"
        )
    lines.append(f"FLOPs           {plan.flops_per_step:.3g} a step, {plan.flops:.3g} in all")
    if plan.seconds_per_step is None or plan.seconds is None or plan.tokens_per_s is None:
        lines.append(f"time            {_no_time(plan)}")
    else:
        lines += [
            f"a step          {short_time(plan.seconds_per_step)}, {rate(plan.tokens_per_s)} tokens/s; bound by "
            f"{plan.bound_by}",
            f"in all          {plan.tokens:,} tokens in {duration(plan.seconds)}",
        ]
    if (exchange := plan.communication) is not None:
        lines.append(
            f"communication   {in_units(exchange.bytes_per_step)} from each device a step, "
            f"{short_time(exchange.seconds)}; {exchange.share:.0%} of a step ({exchange.parallel})"
        )
    if plan.cost is not None:
        lines.append(f"cost            {plan.cost:,.2f}")
    if (loss := plan.expected_loss) is not None:
        low, high = sorted((loss.kaplan, loss.hoffmann))
        lines.append(f"loss            {low:.2f} to {high:.2f} nats per token: {SOURCE}")
    return lines


def generation_lines(plan: GenerationPlan) -> list[str]:
    """The whole of it, a line for each thing."""
    lines = [
        f"{plan.parameters:,} parameters in {plan.weights}, keys and values in {plan.kv}, {plan.engine} engine; "
        f"{plan.new_tokens:,} tokens after {plan.prompt_tokens:,}",
        _memory_line(plan),
        f"a slot          {in_units(plan.kv_bytes_per_slot)} of keys and values",
        f"FLOPs           {plan.flops:.3g} for a text",
    ]
    if plan.largest_slots is not None:
        lines[2] += f"; {plan.largest_slots:,} would fit" if plan.largest_slots else "; not one fits"
    if plan.prefill_seconds is None or plan.tokens_per_s is None or plan.seconds is None:
        unknown = _NO_SPEED if plan.ceilings is None else f"not known in {plan.weights}"
        return [*lines, f"time            {unknown}"]
    lines += [
        f"first token     {short_time(plan.prefill_seconds)}",
        f"then            {rate(plan.tokens_per_s)} tokens/s; bound by {plan.bound_by}",
        f"a whole text    {short_time(plan.seconds)}",
    ]
    if plan.slots > 1 and plan.tokens_per_s_all_slots is not None:
        lines.append(f"{f'{plan.slots:,} side by side':<15} {rate(plan.tokens_per_s_all_slots)} tokens/s")
    if plan.cost is not None:
        lines.append(f"cost            {plan.cost:.2g} for a text alone")
    return lines


def _memory_line(plan: TrainingPlan | GenerationPlan) -> str:
    parts = ", ".join(f"{name} {in_units(size)}" for name, size in plan.memory.items() if size)
    there = ""
    if plan.free_memory_bytes is not None:
        where = "there" if plan.device in MACHINES else "free"
        there = f"; {in_units(plan.free_memory_bytes)} are {where}{'' if plan.fits else ': it does not fit'}"
    return f"memory          {in_units(plan.peak_memory_bytes)} at most: {parts}{there}"


def _activations_line(plan: TrainingPlan) -> str:
    """What the other way of keeping activations would take."""
    kept, checkpointed = plan.activations["kept"], plan.activations["checkpointed"]
    if plan.checkpoint_activations:
        flag, now, other = "without --checkpoint-activations", checkpointed, kept
    else:
        flag, now, other = "with --checkpoint-activations", kept, checkpointed
    line = (
        f"activations     {in_units(now.bytes)}; {in_units(other.bytes)} {flag}, which takes "
        f"{in_units(other.peak_memory_bytes)} of memory"
    )
    if now.seconds_per_step and other.seconds_per_step:
        line += f" and {other.seconds_per_step / now.seconds_per_step - 1:+.0%} time"
    return line


def _sequences(count: int) -> str:
    return f"{count:,} sequence{'' if count == 1 else 's'}"


def _no_time(plan: TrainingPlan) -> str:
    if plan.trained_parameters < plan.parameters:
        return "not known: of adapters the memory alone is planned"
    if plan.ranks > 1:
        return "not known: give --link, the speed between two devices"
    return _NO_SPEED


def training_summary(plan: TrainingPlan) -> str:
    """One line, for the beginning of a run."""
    memory = f"plan: {in_units(plan.peak_memory_bytes)} of memory at most"
    if plan.free_memory_bytes is not None:
        memory += f" of {in_units(plan.free_memory_bytes)} free"
    if plan.seconds_per_step is None or plan.seconds is None or plan.tokens_per_s is None:
        return f"{memory}; time {_no_time(plan)}"
    return (
        f"{memory}, {short_time(plan.seconds_per_step)} a step, {rate(plan.tokens_per_s)} tokens/s, "
        f"{duration(plan.seconds)} in all"
    )


def took_line(plan: TrainingPlan, took: Took) -> str:
    """What the run really took, how much more or less than planned, and where the plan's speeds are from if far off."""
    parts = [
        f"{in_units(took.peak_memory_bytes)} of memory at most"
        f"{beside(took.peak_memory_bytes, plan.peak_memory_bytes)}",
        f"{short_time(took.seconds_per_step)} a step{beside(took.seconds_per_step, plan.seconds_per_step)}",
        f"{rate(took.tokens_per_s)} tokens/s",
        f"{duration(took.seconds)} in {took.steps:,} steps",
    ]
    line = f"took: {', '.join(parts)}"
    if (
        plan.seconds_per_step
        and plan.measured_at
        and abs(took.seconds_per_step / plan.seconds_per_step - 1) > _FAR
    ):
        line += (
            f"; the plan has the speeds of {plan.measured_at}, when this machine was slower or faster or had other "
            "work: `gptwo plan MODEL --measure` measures them again"
        )
    return line


def beside(really: float, planned: float | None) -> str:
    """How much more or less that is than planned, in brackets; nothing where nothing was planned."""
    return "" if not planned else f" ({really / planned - 1:+.0%})"
