"""The paper's table of §7 with this machine's figures beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptwo.config import GPT2Config
from gptwo.costs import weight_bytes
from gptwo.perf.ceilings import Ceilings
from gptwo.perf.crossing import Side
from gptwo.perf.sides import PAPER_START_S, is_of
from gptwo.perf.summary import duration
from gptwo.perf.workload import Contender

# §7.2. The paper does not say how many tokens its pass had; here it is the longest that was timed, a whole context.
PAPER_CPU_S, PAPER_GPU_S = 20.0, 0.030
_NOTHING = "–"


def paper_rows(
    config: GPT2Config,
    rows: Sequence[dict[str, Any]],
    starts: Sequence[dict[str, Any]],
    ceilings: dict[str, Ceilings],
    *,
    cpu: Contender,
    gpu: Contender | None,
    gpu_side: Side,
) -> list[dict[str, Any]]:
    """A row for each claim: ``paper_cpu``, ``paper_gpu``, ``torch``, ``cpu`` and ``gpu`` as text, and as seconds
    (``…_s``), None where there are none.

    The paper ran PyTorch: ``torch`` is that on this CPU in fp32; ``cpu`` is ``cpu``, what writes fastest here in fp32.
    ``gpu`` None: the column of the GPU is ``gpu_side``, a prediction.
    """
    on_torch = Contender("cpu", "torch", "fp32")
    tokens = max(row["tokens"] for row in rows if _is(row, "forward", cpu) and row["batch"] == 1)

    def start_s(one: Contender) -> float | None:
        own = [entry for entry in starts if is_of(entry, one)]
        return float(own[0]["total"]["median"]) if own else None

    def seconds(kind: str, one: Contender | None, **shape: int) -> float | None:
        """Measured; of a GPU that is not here, predicted."""
        for row in rows:
            if row["kind"] == kind and all(row[name] == value for name, value in shape.items()):
                if one is not None and is_of(row, one) and row["measured"]:
                    return float(row["seconds"]["median"])
                if one is None and not row["measured"]:
                    return float(row["predicted_s"])
        return None

    start = _row(
        "shell to first token (§7.1)",
        torch=start_s(on_torch),
        cpu=start_s(cpu),
        gpu=gpu_side.start_s if gpu is None else start_s(gpu),
    )
    start["paper_gpu"] = f"about {1e3 * PAPER_START_S:.0f} ms more"
    passed = _row(
        f"forward pass, here 1×{tokens:,} tokens (§7.2)",
        paper_cpu=PAPER_CPU_S,
        paper_gpu=PAPER_GPU_S,
        torch=seconds("forward", on_torch, batch=1, tokens=tokens),
        cpu=seconds("forward", cpu, batch=1, tokens=tokens),
        gpu=gpu_side.forward(1, tokens) if gpu is None else seconds("forward", gpu, batch=1, tokens=tokens),
    )
    found = [start, passed, _times_slower(passed)]
    trained = next((row for row in rows if _is(row, "train", on_torch)), None)
    if trained is not None:
        shape = {name: trained[name] for name in ("batch", "tokens")}
        found.append(
            _row(
                f"training step, here {shape['batch']}×{shape['tokens']:,} tokens (§7.2)",
                torch=trained["seconds"]["median"],
                gpu=seconds("train", gpu, **shape),
            )
        )
    weights = weight_bytes(config)
    moved = _row(
        f"{weights / 1e6:,.0f} MB of weights to the GPU (§7.3)",
        gpu=_transfer_s(weights, gpu, gpu_side, ceilings),
    )
    found.append({**moved, "paper_gpu": "noticeable"})
    return [{**row, "gpu_measured": gpu is not None} for row in found]


def _times_slower(passed: dict[str, Any]) -> dict[str, Any]:
    """By how much each CPU's pass is longer than the GPU's beside it."""
    row = _row("CPU time / GPU time")
    for name, on_gpu in (("paper_cpu", "paper_gpu"), ("torch", "gpu"), ("cpu", "gpu")):
        if passed[f"{name}_s"] is not None and passed[f"{on_gpu}_s"] is not None:
            row[name] = f"{passed[f'{name}_s'] / passed[f'{on_gpu}_s']:,.3g} ×"
    return row


def _transfer_s(
    weights: int, gpu: Contender | None, gpu_side: Side, ceilings: dict[str, Ceilings]
) -> float | None:
    """By the fit of pageable memory, as weights are loaded; of a GPU that is not here, by the link that is assumed."""
    if gpu is None:
        return gpu_side.copy_s
    transfers = ceilings[gpu.device].transfers
    if transfers is None:
        return None
    fit = transfers["host_to_device"]["pageable"]
    return float(fit["latency_s"] + weights / fit["bytes_per_s"])


def _is(row: dict[str, Any], kind: str, one: Contender) -> bool:
    return bool(row["kind"] == kind and row["measured"] and is_of(row, one))


def _row(what: str, **seconds: float | None) -> dict[str, Any]:
    known = dict.fromkeys(("paper_cpu", "paper_gpu", "torch", "cpu", "gpu")) | seconds
    texts = {name: _NOTHING if value is None else duration(value) for name, value in known.items()}
    about = {name: f"about {texts[name]}" for name in ("paper_cpu", "paper_gpu") if known[name] is not None}
    return {"what": what, **texts, **about, **{f"{name}_s": value for name, value in known.items()}}
