"""How fast memory is read and copied past the caches, and what a small step costs beyond its arithmetic."""

from __future__ import annotations

import numpy as np
import torch

from gptwo.config import GPT2Config
from gptwo.kernels.library import Kernels
from gptwo.perf.clock import Clock, device_clock, host_clock, least_seconds
from gptwo.perf.zero_engine import zero_engine

# Far more than any cache holds.
_BYTES = {"cpu": 512 << 20, "cuda": 1 << 30, "mps": 1 << 30}
# Operations that are timed as one, so that the clock's own cost is lost among them.
_LAUNCHES = 500
# The native engine's steps in a layer for one token: two norms, four products, attention.
_STEPS_OF_LAYER = 7
_TINY = GPT2Config(n_layer=64, n_head=1, n_embd=32, n_inner=32, context=32, vocab_size=32, dropout=0.0)


def read_bytes_per_s(device: torch.device, kernels: Kernels | None, *, budget_s: float) -> float:
    """Bytes per second of reading, by all threads: the faster of a sum in torch and, on the CPU, of the native loop."""
    memory = torch.ones(_BYTES[device.type] // 4, device=device)
    (least,) = least_seconds([memory.sum], device_clock(device), budget_s=budget_s / 2)
    speeds = [memory.nbytes / least]
    if kernels is not None and device.type == "cpu":
        repeats = max(4, int(budget_s / 2 / least))
        speeds.append(kernels.read_bandwidth(memory.numpy(), repeats))
    return max(speeds)


def copy_bytes_per_s(device: torch.device, *, budget_s: float) -> float:
    """Bytes read and written, together, per second of copying one half of a large piece of memory to the other."""
    memory = torch.ones(_BYTES[device.type] // 4, device=device)
    source, target = memory.chunk(2)
    (least,) = least_seconds([lambda: target.copy_(source)], device_clock(device), budget_s=budget_s)
    return 2 * source.nbytes / least


def dispatch_s(device: torch.device, *, budget_s: float) -> float:
    """Seconds of the host for one operation of torch on a few numbers. The device's own work is not waited for."""
    x = torch.ones(16, device=device)

    def operations() -> None:
        for _ in range(_LAUNCHES):
            x.add_(1.0)

    (least,) = least_seconds([operations], host_clock(torch.device("cpu")), budget_s=budget_s)
    return least / _LAUNCHES


def launch_s(device: torch.device, kernels: Kernels | None, *, budget_s: float) -> float | None:
    """Seconds from one step on nothing to the next: of kernels on a GPU, of the native engine's steps on the CPU.

    A step of the native engine is what all threads do between two of their barriers. None on the CPU without it.
    """
    if device.type != "cpu":
        return _kernel_s(device, budget_s)
    return _native_step_s(kernels, budget_s) if kernels is not None else None


def _kernel_s(device: torch.device, budget_s: float) -> float:
    """From one kernel to the next, as the device's own clock has it, when the host hands them over one by one."""
    x = torch.ones(16, device=device)
    clock: Clock = device_clock(device)

    def operations() -> None:
        for _ in range(_LAUNCHES):
            x.add_(1.0)

    (least,) = least_seconds([operations], clock, budget_s=budget_s)
    return least / _LAUNCHES


def _native_step_s(kernels: Kernels, budget_s: float) -> float:
    """A token of a model of 64 layers with next to no arithmetic in them, divided by its steps."""
    session = zero_engine(kernels, _TINY).start(slots=1, capacity=_TINY.context)
    token = np.zeros(1, dtype=np.int64)

    def one_token() -> None:
        session.truncate(0, 0)
        session.read([0], [token], [1])

    (least,) = least_seconds([one_token], host_clock(torch.device("cpu")), budget_s=budget_s)
    return least / (_TINY.n_layer * _STEPS_OF_LAYER)
