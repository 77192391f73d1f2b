"""How much memory the run takes."""

from __future__ import annotations

import torch

from gptwo.base.memory import resident_bytes


def memory_bytes(device: torch.device) -> tuple[int, int]:
    """Bytes in use now, and the most so far: tensors on a GPU, else this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return resident_bytes()
