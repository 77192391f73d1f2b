"""What this machine reads and multiplies, by the native library's own loops."""

from __future__ import annotations

import numpy as np

# Far more than any cache holds.
READ_BYTES = 1 << 30


def measure(threads: int) -> dict[str, float]:
    """Bytes per second of reading memory, and FLOP/s of fp32 multiply-adds in registers, with all threads together."""
    from gptwo.kernels.library import open_kernels

    kernels = open_kernels(threads)
    memory = np.ones(READ_BYTES // 4, dtype=np.float32)
    return {
        "read_bytes_per_s": kernels.read_bandwidth(memory),
        "fma_flops_per_s": kernels.multiply_add_peak(),
    }
