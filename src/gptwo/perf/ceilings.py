"""The most that a device gives, measured here and now: what every figure is held against. Torch only where measured."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Literal, Self, overload

from gptwo.base.cores import usable_cores
from gptwo.base.memory import keep_freed_memory
from gptwo.base.version import __version__
from gptwo.perf.environment import BUSY, others_share, processor

# What is measured, and how: another number has nothing in common with what an older one left in the cache.
_EDITION = 7
# A machine whose ceilings moved by more than this between two measurements was not quiet.
QUIET_DRIFT = 0.05
# The same of what takes microseconds, and of copies from and to pageable memory, which the host copies once more: where
# a process and its memory lie moves them by more. On the CPU 0025 has both ends of it.
LOOSE_DRIFT = 0.25


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """FLOP/s by dtype of products, bytes per second of memory, seconds of what is done once per operation.

    matmul_flops_per_s        the fastest product that was seen: large, or of a model's shape
    model_matmul_flops_per_s  of the products of GPT-2 124M: {"mlp.up": {"fp32": …}}
    read, copy_bytes_per_s    past the caches; a copy's bytes are those read and those written
    dispatch_s                the host's time for one small operation of torch
    launch_s                  from one kernel to the next on a GPU; on the CPU one step of the native engine, or None
    transfers                 {direction: {"pageable" | "pinned": {latency_s, bytes_per_s, samples}}}, CUDA only
    process_bytes             host memory of a process before its model: {"native" | "torch" | "train": bytes}
    speeds                    what ``predict`` multiplies up, on the CPU: {"torch": ``torch_speeds``, "native":
                              ``native_speeds``}; None elsewhere, and in a quick measurement

    ``source`` is "measured", or "datasheet" where the device is not here.
    """

    device: str
    name: str
    threads: int
    matmul_flops_per_s: dict[str, float]
    model_matmul_flops_per_s: dict[str, dict[str, float]]
    read_bytes_per_s: float
    copy_bytes_per_s: float
    dispatch_s: float
    launch_s: float | None
    transfers: dict[str, dict[str, Any]] | None
    measured_at: str
    process_bytes: dict[str, int] = field(default_factory=dict)
    speeds: dict[str, Any] | None = None
    source: Literal["measured", "datasheet"] = "measured"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """What ``to_json`` gave; keys that a later version added are left out."""
        return cls(**{each.name: fields[each.name] for each in dataclass_fields(cls) if each.name in fields})


def measure_ceilings(
    device: str = "cpu",
    threads: int | None = None,
    quick: bool = False,
    dtypes: Sequence[str] | None = None,
) -> Ceilings:
    """The ceilings of a device that is here, in a few seconds; ``quick`` takes a third, without ``process_bytes``.

    Products are those of ``dtypes``, of all that the device has unless given. Meant for a process of its own
    (``process.ask``): sets torch's threads to ``threads``, ``usable_cores()`` by default, keeps freed memory, and takes
    0.5 GB, on a GPU 2 GB there. Each figure is the best of many repetitions. Raises ``DeviceError`` as
    ``resolve_device``.
    """
    import torch

    from gptwo.base.device import resolve_device
    from gptwo.base.errors import NativeLibraryError
    from gptwo.kernels.library import open_kernels
    from gptwo.perf import memory_speed, products
    from gptwo.perf.process_memory import process_bytes
    from gptwo.perf.transfers import LARGEST
    from gptwo.perf.transfers import transfers as measure_transfers

    place = resolve_device(device)
    count = usable_cores() if threads is None else threads
    torch.set_num_threads(count)
    # Else each product's result is new pages, and a fault for each of them a part of its time.
    keep_freed_memory()
    kernels = None
    with suppress(NativeLibraryError):
        kernels = open_kernels(count)
    # Seconds for each figure; where what else happens on the machine is felt for a moment, several times as many.
    budget = 0.15 if quick else 0.5
    shapes = products.model_shapes(place)
    with torch.no_grad():
        speeds = products.flops_per_s(
            [products.LARGE[place.type], *shapes.values()],
            place,
            kernels,
            dtypes=dtypes,
            budget_s=12 * budget,
        )
        return Ceilings(
            device=str(place),
            name=device_name(place),
            threads=count,
            matmul_flops_per_s={dtype: max(found) for dtype, found in speeds.items()},
            model_matmul_flops_per_s={
                name: {dtype: found[1 + i] for dtype, found in speeds.items()}
                for i, name in enumerate(shapes)
            },
            read_bytes_per_s=memory_speed.read_bytes_per_s(place, kernels, budget_s=8 * budget),
            copy_bytes_per_s=memory_speed.copy_bytes_per_s(place, budget_s=4 * budget),
            dispatch_s=memory_speed.dispatch_s(place, budget_s=budget / 2),
            launch_s=memory_speed.launch_s(place, kernels, budget_s=budget / 2),
            transfers=(
                measure_transfers(place, largest=LARGEST >> 4 if quick else LARGEST, budget_s=4 * budget)
                if place.type == "cuda"
                else None
            ),
            process_bytes={} if quick else process_bytes(),
            speeds=_speeds(kernels) if place.type == "cpu" and not quick else None,
            measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )


def _speeds(kernels: Any) -> dict[str, Any]:
    """What ``speeds`` reads; the native engine's are left out where it was not built."""
    from gptwo.perf.native_speeds import native_speeds
    from gptwo.perf.torch_speeds import torch_speeds

    return {
        "torch": torch_speeds(budget_s=3.0),
        **({"native": native_speeds(kernels, budget_s=3.0)} if kernels is not None else {}),
    }


def device_name(device: Any) -> str:
    """The GPU's name, or the processor's."""
    if device.type != "cuda":
        return processor()
    import torch

    return torch.cuda.get_device_name(device)


def _ignored(line: str) -> None:
    """Nobody listens."""


@overload
def cached_ceilings(
    device: str = "cpu",
    threads: int | None = None,
    measure: Literal[True] = True,
    *,
    anew: bool = False,
    say: Callable[[str], None] = _ignored,
) -> Ceilings: ...
@overload
def cached_ceilings(
    device: str = "cpu",
    threads: int | None = None,
    *,
    measure: bool,
    anew: bool = False,
    say: Callable[[str], None] = _ignored,
) -> Ceilings | None: ...
def cached_ceilings(
    device: str = "cpu",
    threads: int | None = None,
    measure: bool = True,
    *,
    anew: bool = False,
    say: Callable[[str], None] = _ignored,
) -> Ceilings | None:
    """The ceilings that the user's cache has for this machine and these versions.

    Else, or ``anew``, they are measured, in a process of their own, and kept; with ``measure`` false: None. What was
    measured while other processes took more than ``BUSY`` of the machine is not kept, and ``say`` is told so. The cache
    is ``gptwo/ceilings-….json`` in $XDG_CACHE_HOME or ~/.cache; without a place to write they are measured each time.
    """
    from gptwo.perf.process import ask

    count = usable_cores() if threads is None else threads
    path = _cache_folder() / f"ceilings-{_key(device, count)}.json"
    if not (measure and anew):
        with suppress(OSError, ValueError, TypeError):
            return Ceilings.from_json(json.loads(path.read_text(encoding="utf-8")))
    if not measure:
        return None
    others = others_share()
    found = Ceilings.from_json(ask({"what": "ceilings", "device": device, "threads": count}))
    others = max(others, others_share())
    if others > BUSY:
        say(
            f"other processes took {others:.0%} of this machine: what was measured is used once, and not kept"
        )
        return found
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(f".{os.getpid()}")
        whole.write_text(json.dumps(found.to_json()), encoding="utf-8")
        whole.replace(path)
    return found


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gptwo"


def _key(device: str, threads: int) -> str:
    """Changes with whatever the figures depend on, and can be known without torch."""
    about = [
        *(_EDITION, __version__, importlib.metadata.version("torch"), importlib.metadata.version("numpy")),
        *(processor(), platform.machine(), platform.node(), os.cpu_count(), threads, device),
        *(os.environ.get(name, "") for name in ("GPTWO_INSTRUCTION_SET", "CUDA_VISIBLE_DEVICES")),
    ]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def drift(before: Ceilings, after: Ceilings) -> dict[str, float]:
    """(after - before) / before of each ceiling that both have; ``too_far`` says which is more than a quiet machine's.

    Of GPT-2's own shapes (``model_matmul_flops_per_s``) only the fastest product counts, which is a ceiling. Products
    ("matmul fp32", …), "read", "copy", "dispatch", "launch"; of transfers "host_to_device pinned" and so on for the
    bandwidth, with " latency" for the latency.
    """
    pairs = {
        **{
            f"matmul {dtype}": (before.matmul_flops_per_s[dtype], after.matmul_flops_per_s[dtype])
            for dtype in before.matmul_flops_per_s.keys() & after.matmul_flops_per_s.keys()
        },
        "read": (before.read_bytes_per_s, after.read_bytes_per_s),
        "copy": (before.copy_bytes_per_s, after.copy_bytes_per_s),
        "dispatch": (before.dispatch_s, after.dispatch_s),
    }
    if before.launch_s is not None and after.launch_s is not None:
        pairs["launch"] = (before.launch_s, after.launch_s)
    for direction, kinds in (before.transfers or {}).items():
        for kind, fit in kinds.items():
            later = (after.transfers or {}).get(direction, {}).get(kind)
            if later is not None:
                pairs[f"{direction} {kind}"] = (fit["bytes_per_s"], later["bytes_per_s"])
                pairs[f"{direction} {kind} latency"] = (fit["latency_s"], later["latency_s"])
    # A fitted latency may be 0.
    return {name: later / earlier - 1 for name, (earlier, later) in sorted(pairs.items()) if earlier > 0}


def too_far(moved: Mapping[str, float]) -> list[str]:
    """What of a ``drift`` is more than ``QUIET_DRIFT``, or ``LOOSE_DRIFT`` where that holds: "read by -20%"."""
    return [
        f"{name} by {share:+.0%}"
        for name, share in moved.items()
        if abs(share) > (QUIET_DRIFT if _is_tight(name) else LOOSE_DRIFT)
    ]


def of_floors(moved: Mapping[str, float]) -> dict[str, float]:
    """Of a ``drift`` what a floor rests on, and most of a plan: products, and reading memory."""
    return {name: share for name, share in moved.items() if name == "read" or name.startswith("matmul ")}


def _is_tight(name: str) -> bool:
    """Of products and of bandwidths, but for that of pageable memory."""
    return name in ("read", "copy") or name.startswith("matmul ") or name.endswith(" pinned")


def highest(before: Ceilings, after: Ceilings) -> Ceilings:
    """``before`` with the higher of both in products, reading and copying: what else ran can only have lowered one."""
    later = after.matmul_flops_per_s
    return replace(
        before,
        matmul_flops_per_s={
            dtype: max(speed, later.get(dtype, speed)) for dtype, speed in before.matmul_flops_per_s.items()
        },
        read_bytes_per_s=max(before.read_bytes_per_s, after.read_bytes_per_s),
        copy_bytes_per_s=max(before.copy_bytes_per_s, after.copy_bytes_per_s),
    )
