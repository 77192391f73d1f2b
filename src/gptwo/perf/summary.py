"""A record of ``gptwo bench`` as a page of text."""

from __future__ import annotations

from typing import Any


def summary(record: dict[str, Any]) -> str:
    """The cases in a table, with what limits each, and what to know about the run."""
    model, machine = record["model"], record["environment"]
    lines = [
        f"{model['name']}: {model['parameters']:,} parameters ({model['weights']}) on {machine['processor']}, "
        f"{machine['threads']} threads; {record['seconds']:.0f} s",
        "",
        f"{'case':54} {'median':>10}  {'95% interval':>21}  {'tokens/s':>9}  "
        f"{'share':>5}  {'bound by':10}  {'memory':>8}",
    ]
    for case in record["cases"]:
        if case["measured"]:
            lines.append(_case(case))
    for entry in record["ceilings"]:
        lines.append(f"ceilings of {entry['device']}: {_ceilings(entry['before'])}")
    if record["crossing"]:
        lines.append(f"CPU or GPU: {record['crossing']['verdict']}")
    lines += [f"not timed: {entry['what']}: {entry['why']}" for entry in record["left_out"]]
    lines += [f"not quiet: {why}" for why in record["quiet"]["reasons"]]
    return "\n".join(lines)


def _case(case: dict[str, Any]) -> str:
    seconds = case["seconds"]
    interval = f"{duration(seconds['low'])} - {duration(seconds['high'])}"
    return (
        f"{case['id']:54} {duration(seconds['median']):>10}  {interval:>21}  {case['tokens_per_s']:9,.0f}  "
        f"{case['share']:5.0%}  {case['bound_by']:10}  {case['peak_memory_bytes'] / 1e6:5,.0f} MB"
    )


def _ceilings(found: dict[str, Any]) -> str:
    products = ", ".join(
        f"{dtype} products {speed / 1e9:,.0f} GFLOP/s" for dtype, speed in found["matmul_flops_per_s"].items()
    )
    return f"{products}, memory read {found['read_bytes_per_s'] / 1e9:,.1f} GB/s"


def duration(seconds: float) -> str:
    """``"1.85 s"``, ``"12.3 ms"``, ``"310 µs"``."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= factor:
            value = seconds / factor
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{1e6 * seconds:.3g} µs"
