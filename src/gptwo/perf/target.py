"""What a plan is made for: a device of this machine, or one known by its data sheet. Torch only for a GPU here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from gptwo.base.memory import free_memory_bytes
from gptwo.infer.engines import has_accelerator
from gptwo.perf.ceilings import Ceilings, cached_ceilings
from gptwo.perf.environment import processor
from gptwo.perf.machines import CUDA_RESERVE, Machine, machine

_HERE = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device as a plan sees it.

    ``memory_bytes`` may be taken: what is free now on a device that is here, all of another's; None where nobody knows.
    ``measured``: its ceilings, if it is here and they have been measured; ``machine``: its line of the table, if not.
    """

    device: str
    title: str
    memory_bytes: int | None
    has_bf16: bool
    link_bytes_per_s: float | None = None
    measured: Ceilings | None = None
    machine: Machine | None = None

    @property
    def kind(self) -> str:
        """ "cpu", "cuda" or "mps"."""
        return self.machine.kind if self.machine else self.device.partition(":")[0]

    def ceilings(self, *, training: bool) -> Ceilings | None:
        """What it reaches; None where that is not known, and no time can be planned."""
        return self.machine.ceilings(training=training) if self.machine else self.measured


def find_target(
    name: str = "auto",
    *,
    threads: int | None = None,
    measure: bool = False,
    anew: bool = False,
    say: Callable[[str], None] = lambda line: None,
    memory_bytes: int | None = None,
    link_bytes_per_s: float | None = None,
) -> Target:
    """The device ``auto | cpu | cuda[:n] | mps`` of this machine, or the one of that name in the table of machines.

    ``measure`` takes half a minute, once, and ``say`` is told; else a device that is here has the ceilings of an
    earlier time, or none. With ``anew`` it is measured whatever there is.
    ``memory_bytes`` and ``link_bytes_per_s`` replace what is known. ``DeviceError`` for a device that is neither.
    """
    if name.partition(":")[0] in _HERE:
        found = _here(name, partial(_ceilings, threads=threads, measure=measure, anew=anew, say=say))
    else:
        known = machine(name)
        found = Target(
            device=known.name,
            title=known.title,
            memory_bytes=known.memory_bytes,
            has_bf16=known.kind == "cuda" and "bf16" in known.flops_per_s,
            link_bytes_per_s=known.link_bytes_per_s,
            machine=known,
        )
    return replace(
        found,
        memory_bytes=found.memory_bytes if memory_bytes is None else memory_bytes,
        link_bytes_per_s=found.link_bytes_per_s if link_bytes_per_s is None else link_bytes_per_s,
    )


def measured_process_bytes(target: Target, what: str) -> int:
    """What a program takes beside its model, to "train" or of an engine; 0 where that is not known.

    Measured on a CPU that is here; ``CUDA_RESERVE`` on a GPU that is not. On one that is here it is taken already.
    """
    if target.kind != "cpu":
        return CUDA_RESERVE if target.machine else 0
    return target.measured.process_bytes.get(what, 0) if target.measured else 0


def _ceilings(
    device: str, *, threads: int | None, measure: bool, anew: bool, say: Callable[[str], None]
) -> Ceilings | None:
    found = None if anew else cached_ceilings(device, threads, measure=False)
    if found is None and measure:
        say(f"measuring {device}, once: half a minute, in which nothing else should run")
        found = cached_ceilings(device, threads, measure=True, anew=anew, say=say)
    return found


def _here(name: str, ceilings: Callable[[str], Ceilings | None]) -> Target:
    if name == "cpu" or (name == "auto" and not has_accelerator()):
        return Target(
            device="cpu",
            title=processor(),
            memory_bytes=free_memory_bytes(),
            has_bf16=False,
            measured=ceilings("cpu"),
        )
    import torch

    from gptwo.base.device import resolve_device

    device = resolve_device(name)
    on_cuda = device.type == "cuda"
    return Target(
        device=str(device),
        title=torch.cuda.get_device_name(device) if on_cuda else device.type,
        memory_bytes=torch.cuda.mem_get_info(device)[0] if on_cuda else free_memory_bytes(),
        has_bf16=on_cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        measured=ceilings(str(device)),
    )
