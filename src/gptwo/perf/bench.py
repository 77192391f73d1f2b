"""``gptwo bench``: measure a model on this machine, hold it against the machine's limits, and write it all down."""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptwo.base.version import __version__
from gptwo.checkpoint.released_config import read_config
from gptwo.checkpoint.resolve import resolve_model
from gptwo.config import PRESETS
from gptwo.costs import parameter_count
from gptwo.perf.ceilings import Ceilings, cached_ceilings, drift, highest, of_floors, too_far
from gptwo.perf.crossing import crossing
from gptwo.perf.environment import BUSY, Others
from gptwo.perf.figures import case_row, predicted_row
from gptwo.perf.machines import gpu as gpu_named
from gptwo.perf.measuring import STOPPED, Ask, Measuring, Progress, Settings
from gptwo.perf.paper import paper_rows
from gptwo.perf.process import ask as ask_worker
from gptwo.perf.record import SCHEMA
from gptwo.perf.sides import measured_side, predicted_side, quickest, representative
from gptwo.perf.workload import Contender, contenders, predicted_cases

# A prediction from ceilings that have moved by more than this since says nothing of this run.
_SAME = 0.10


def bench(
    settings: Settings, *, ask: Ask = ask_worker, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """The record of docs/bench-schema.md. ``progress(done, total, what)`` is told of each process before it starts.

    Raises ``GptwoError`` for a model, device, engine or dtype that cannot be, before anything is measured. A
    ``KeyboardInterrupt`` while anything is timed ends it with a record of what was found until then (``was_stopped``).
    """
    began = time.perf_counter()
    gpu_named(settings.gpu)
    chosen, left_out = contenders(_devices(settings.devices), settings.engines, settings.dtypes)
    with ExitStack() as stack:
        random = settings.model in PRESETS
        if random:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="gptwo-bench-"))
            folder = Path(scratch) / "model"
        else:
            folder = resolve_model(settings.model)
        measuring = Measuring(settings, folder, chosen, ask, progress)
        measuring.left_out += left_out
        if random:
            question = {"what": "random_model", "size": settings.model, "folder": str(folder)}
            measuring.ask("random weights", question)
        record = _record(settings, folder, measuring, "random, seed 0" if random else "the model's own")
    return {**record, "seconds": time.perf_counter() - began}


def was_stopped(record: dict[str, Any]) -> bool:
    """Whether the user ended the run before all was measured."""
    return any(entry["why"] == STOPPED for entry in record["left_out"])


def _devices(names: Sequence[str]) -> list[str]:
    """The devices by torch's names, each once; ``auto`` is the CPU and, where there is one, the first GPU."""
    found: list[str] = []
    for name in names:
        if name in ("auto", "cpu"):
            found.append("cpu")
        if name != "cpu":
            from gptwo.base.device import resolve_device

            found.append(str(resolve_device(name)))
    return list(dict.fromkeys(found))


def _record(settings: Settings, folder: Path, measuring: Measuring, weights: str) -> dict[str, Any]:
    """Everything, in the order in which it is measured: nothing is timed before it agrees."""
    config = read_config(folder)
    measuring.announce(config)
    others = Others()
    environment = measuring.environment()
    before = measuring.ceilings()
    agreed = measuring.agreement(config)
    starts = [entry for one in measuring.contenders if (entry := measuring.initialisation(one))]
    answers = measuring.timed(config)
    energy = measuring.energy()
    after = measuring.ceilings_after()
    drifts = {device: drift(before[device], after[device]) for device in before} if after else {}
    best = {device: highest(found, after[device]) if after else found for device, found in before.items()}
    earlier = {
        device: cached_ceilings(device, settings.threads, measure=False) if found.speeds is None else None
        for device, found in before.items()
    }
    rests_on = {device: _rests_on(earlier[device], found) for device, found in before.items()}
    rows = []
    for case, found in answers.items():
        device = case.contender.device
        row = case_row(config, case, found, best[device], earlier[device] or before[device])
        rows.append(row if rests_on[device]["holds"] else {**row, "predicted_s": None})

    cpu, gpu = (representative(rows, kind) for kind in ("cpu", "cuda"))
    quicker = quickest(rows, "cpu")
    devices = [_device(name, found, measured=True) for name, found in before.items()]
    known = gpu_named(settings.gpu)
    if gpu is None:
        on_gpu = Contender(known.name, "torch", "fp32")
        for case in predicted_cases(answers, on_gpu):
            rows.append(predicted_row(config, case, known.ceilings(training=case.kind == "train")))
        devices.append(_device(known.name, known.ceilings(training=False), measured=False))
    crossed, paper = None, []
    if cpu is not None:
        cpu_side = measured_side(cpu, rows, starts, before[cpu.device].name)
        if gpu is None:
            gpu_side = predicted_side(config, known, starts, cpu_side)
        else:
            gpu_side = measured_side(gpu, rows, starts, before[gpu.device].name)
        quicker_side = measured_side(quicker, rows, starts, before[quicker.device].name) if quicker else None
        crossed = crossing(cpu_side, gpu_side, context=config.context, quicker=quicker_side)
        paper = paper_rows(config, rows, starts, before, cpu=cpu, gpu=gpu, gpu_side=gpu_side)
    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gptwo": __version__,
        "commit": environment["commit"],
        "quick": settings.quick,
        "model": {
            "name": settings.model,
            "config": asdict(config),
            "parameters": parameter_count(config),
            "weights": weights,
        },
        "environment": environment,
        "quiet": _quiet(others.share(), drifts, stopped=measuring.stopped),
        "devices": devices,
        "ceilings": [
            {
                "device": device,
                "before": before[device].to_json(),
                "after": after[device].to_json() if after else None,
                "drift": drifts.get(device),
                "floors_from": {
                    "matmul_flops_per_s": best[device].matmul_flops_per_s,
                    "read_bytes_per_s": best[device].read_bytes_per_s,
                },
                "plan_from": rests_on[device],
            }
            for device in before
        ],
        "agreement": agreed,
        "left_out": measuring.left_out,
        "initialisation": starts,
        "cases": rows,
        "crossing": crossed,
        "energy": energy,
        "paper": paper,
    }


def _rests_on(earlier: Ceilings | None, now: Ceilings) -> dict[str, Any]:
    """What predictions are made from: ceilings of an earlier time, where those of now lack speeds of operations.

    They do not hold where any product or reading memory has moved by more than ``_SAME`` since.
    """
    moved = {} if earlier is None else of_floors(drift(earlier, now))
    return {
        "measured_at": (earlier or now).measured_at,
        "moved": moved,
        "holds": all(abs(share) <= _SAME for share in moved.values()),
    }


def _device(name: str, ceilings: Ceilings, *, measured: bool) -> dict[str, Any]:
    kind = ceilings.device.partition(":")[0]
    return {"name": name, "kind": kind, "label": ceilings.name, "measured": measured}


def _quiet(others: float, drifts: dict[str, dict[str, float]], *, stopped: bool) -> dict[str, Any]:
    reasons = ["it was stopped, and its ceilings are not known to have lasted"] if stopped else []
    if others > BUSY:
        reasons.append(f"other processes took {others:.0%} of the processor")
    for device, moved in drifts.items():
        if far := too_far(moved):
            reasons.append(f"ceilings of {device} moved during the run: {', '.join(far)}")
    return {"ok": not reasons, "others_share": others, "reasons": reasons}
