"""The paper's table of §7 with this machine's figures beside the paper's."""

from __future__ import annotations

from typing import Any

from gptwo.config import GPT2Config
from gptwo.costs import weight_bytes
from gptwo.perf.ceilings import Ceilings
from gptwo.perf.sides import PAPER_START_S
from gptwo.perf.summary import duration

# §7.2. The paper does not say how many tokens its pass had; here it is one whole context, the most there can be.
PAPER_CPU_S, PAPER_GPU_S = 20.0, 0.030


def paper_rows(
    crossed: dict[str, Any], config: GPT2Config, ceilings: dict[str, Ceilings]
) -> list[dict[str, Any]]:
    """``{what, paper_cpu, paper_gpu, cpu, gpu, gpu_measured}`` as text, and seconds (``…_s``) where there are any."""
    measured = crossed["gpu_measured"]
    whole = crossed["by_length"][-1]
    later = crossed["gpu_start_s"] - crossed["cpu_start_s"]
    weights = weight_bytes(config)
    rows = [
        _row("initialisation (§7.1)", None, None, crossed["cpu_start_s"], crossed["gpu_start_s"])
        | {
            "paper_gpu": f"about {1e3 * PAPER_START_S:.0f} ms more",
            "gpu": f"{duration(crossed['gpu_start_s'])} ({1e3 * later:+,.0f} ms)",
        },
        _row(
            f"a forward pass (§7.2), here of 1 × {whole['tokens']:,} tokens",
            PAPER_CPU_S,
            PAPER_GPU_S,
            whole["cpu_s"],
            whole["gpu_s"],
        ),
        _row("how many times faster the GPU is", None, None, None, None)
        | {
            "paper_gpu": f"{PAPER_CPU_S / PAPER_GPU_S:,.0f} ×",
            "gpu": f"{whole['cpu_s'] / whole['gpu_s']:,.1f} ×",
        },
        _row(
            f"transfer of all weights, {weights / 1e6:,.0f} MB (§7.3)",
            None,
            None,
            None,
            _transfer_s(weights, crossed, ceilings),
        )
        | {"paper_gpu": "noticeable"},
    ]
    return [{**row, "gpu_measured": measured} for row in rows]


def _transfer_s(weights: int, crossed: dict[str, Any], ceilings: dict[str, Ceilings]) -> float:
    """By the fit of pageable memory, as weights are loaded; of a GPU that is not here, by the link that is assumed."""
    for found in ceilings.values():
        if crossed["gpu_measured"] and found.transfers is not None:
            fit = found.transfers["host_to_device"]["pageable"]
            return float(fit["latency_s"] + weights / fit["bytes_per_s"])
    return float(crossed["gpu_copy_s"])


def _row(
    what: str, paper_cpu: float | None, paper_gpu: float | None, cpu: float | None, gpu: float | None
) -> dict[str, Any]:
    seconds = {"paper_cpu": paper_cpu, "paper_gpu": paper_gpu, "cpu": cpu, "gpu": gpu}
    texts = {name: "–" if value is None else duration(value) for name, value in seconds.items()}
    texts |= {
        name: f"about {texts[name]}" for name in ("paper_cpu", "paper_gpu") if seconds[name] is not None
    }
    return {"what": what, **texts, **{f"{name}_s": value for name, value in seconds.items()}}
