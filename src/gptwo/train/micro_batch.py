"""What a run takes of the memory, and how a step's sequences are cut into micro-batches that fit. No torch for a CPU.

Without dropout the loss does not depend on the cut. With it, another cut draws other values to drop, which is why a
run keeps its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptwo.base.errors import ConfigError
from gptwo.base.memory import free_memory_bytes
from gptwo.config import GPT2Config
from gptwo.costs import OptimizerName, TrainingDtype, activation_bytes, parameter_count, training_memory

if TYPE_CHECKING:
    import torch

# Of the free memory, what a step's activations may take; the rest is for fragmentation and other programs.
_SHARE = 0.5
# In fp32: weights, gradients and AdamW's two moments.
_TRAINING_BYTES_PER_PARAMETER = 16


def sequences_per_step(batch_tokens: int, context: int) -> int:
    """B = batch_tokens / C. Raises ``ConfigError`` when it is not whole."""
    if batch_tokens % context:
        below = batch_tokens - batch_tokens % context
        nearest = " and ".join(str(n) for n in (below, below + context) if n)
        raise ConfigError(
            f"batch_tokens={batch_tokens} is not a multiple of the context of {context}; nearest: {nearest}"
        )
    return batch_tokens // context


def free_bytes(device: torch.device) -> int:
    """Memory that is free now on the device: the GPU's own, else the machine's."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory_bytes()


def step_memory(
    config: GPT2Config,
    share: int,
    *,
    micro_batch: int,
    optimizer: OptimizerName,
    checkpoint_activations: bool,
    dtype: TrainingDtype,
    fused: bool,
    on_cpu: bool,
    adapters: int | None = None,
    parameter_ranks: int = 1,
) -> dict[str, int]:
    """Bytes by part of a step of a device's ``share`` of sequences, ``micro_batch`` of them, or all, at a time.

    What a plan says and what a run is refused by.
    """
    at_once = min(micro_batch, share)
    return training_memory(
        config,
        micro_batch=at_once,
        micro_batches=-(-share // at_once),
        optimizer=optimizer,
        checkpoint_activations=checkpoint_activations,
        dtype=dtype,
        fused=fused,
        device="cpu" if on_cpu else "cuda",
        trained_parameters=adapters,
        parameter_ranks=parameter_ranks,
    )


def derive_micro_batch(
    config: GPT2Config,
    sequences: int,
    *,
    available_bytes: int,
    checkpoint_activations: bool,
    fused: bool,
    on_cpu: bool,
    parameter_ranks: int = 1,
) -> int:
    """The largest even cut of ``sequences`` whose activations fit in half of the free memory; at least 1.

    What every parameter takes beside them is taken off first, divided by the ranks that it is sharded over.
    """
    each = activation_bytes(config, checkpoint_activations=checkpoint_activations, fused=fused, on_cpu=on_cpu)
    parameter_bytes = _TRAINING_BYTES_PER_PARAMETER * parameter_count(config) // parameter_ranks
    for_activations = _SHARE * (available_bytes - parameter_bytes)
    fits = max(1, int(for_activations) // each)
    pieces = -(-sequences // min(fits, sequences))
    return -(-sequences // pieces)
