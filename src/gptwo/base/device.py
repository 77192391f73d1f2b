"""Devices are resolved once, at the edge, and passed in (paper §8)."""

from __future__ import annotations

import re

import torch

from gptwo.base.errors import DeviceError

_NAME = re.compile(r"auto|cpu|mps|cuda(:(?P<index>\d+))?")


def wait(device: torch.device) -> None:
    """Until the device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """The ``torch.device`` that ``"auto" | "cpu" | "cuda[:n]" | "mps"`` means on this machine.

    ``auto`` is the first CUDA device, else MPS, else the CPU; a device asked for by name is that device or an
    error, never another one. Raises ``DeviceError`` when the name is unknown or the device is not there.
    """
    text = str(name)
    match = _NAME.fullmatch(text)
    if match is None:
        raise DeviceError(f"device {text!r} is unknown; expected auto, cpu, cuda, cuda:N or mps")
    if text == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if text.startswith("cuda"):
        # Read here: torch.device wraps large indices around (cuda:300 is its cuda:44).
        index = int(match["index"] or 0)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if index >= count:
            raise DeviceError(
                f"device {text!r} is not there: torch {torch.__version__} sees {count} CUDA devices; "
                "use --device cpu, or install a CUDA build of torch and check nvidia-smi"
            )
        return torch.device("cuda", index)
    if text == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' is not there: it needs an Apple GPU; use --device cpu")
    return torch.device(text)
