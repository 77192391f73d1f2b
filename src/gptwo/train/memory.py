"""How much memory the run takes."""

from __future__ import annotations

import resource
import sys

import psutil
import torch


def memory_bytes(device: torch.device) -> tuple[int, int]:
    """Bytes in use now, and the most so far: tensors on a GPU, else this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    now = int(psutil.Process().memory_info().rss)
    unit = 1 if sys.platform == "darwin" else 1024
    return now, max(
        now, unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )  # the kernel's peak may lag
