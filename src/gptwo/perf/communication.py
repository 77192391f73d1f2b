"""What ranks exchange in a training step, and how much of a step that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gptwo.config import GPT2Config
from gptwo.costs import parameter_count, root_parameter_count

Parallel = Literal["ddp", "fsdp"]
# Weights travel in fp32, and so do gradients (train/parallel.py).
_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Communication:
    """Of one step: the bytes that each rank sends, their seconds, and those seconds that no arithmetic hides.

    ``share`` is of the step: the exposed seconds over them and the arithmetic together.
    """

    ranks: int
    parallel: Parallel
    bytes_per_step: int
    seconds: float
    exposed_seconds: float
    share: float


def communication(
    config: GPT2Config,
    *,
    ranks: int,
    parallel: Parallel,
    micro_batches: int,
    compute_s: float,
    link_bytes_per_s: float,
) -> Communication:
    """Of N ``ranks`` that each compute ``micro_batches`` in ``compute_s``, over rings of such links; P parameters.

    ddp averages the gradients once a step: 2·(N-1)/N·4P bytes, hidden at most by the backward pass of the last
    micro-batch, two thirds of its arithmetic. fsdp gathers a block's weights for the forward and again for the backward
    pass of every micro-batch, the embeddings (R parameters with the last norm) once for both, and scatters the sums of
    its gradients once: (N-1)/N·4·(3P - R) bytes each, hidden at most by all of the arithmetic. Latencies, and a start
    and an end that nothing can hide, are left out.
    """
    if parallel == "ddp":
        values, hides_s = 2 * parameter_count(config), compute_s / micro_batches * 2 / 3
    else:
        values = micro_batches * (3 * parameter_count(config) - root_parameter_count(config))
        hides_s = compute_s
    sent = _BYTES * values * (ranks - 1) // ranks
    seconds = sent / link_bytes_per_s
    exposed = max(0.0, seconds - hides_s)
    return Communication(
        ranks=ranks,
        parallel=parallel,
        bytes_per_step=sent,
        seconds=seconds,
        exposed_seconds=exposed,
        share=exposed / (compute_s + exposed),
    )
