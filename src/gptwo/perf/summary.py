"""A record of ``gptwo bench`` as a page of text."""

from __future__ import annotations

import textwrap
from typing import Any

from gptwo.perf.statistics import LEAST_FOR_INTERVAL

_KINDS = {
    "decode": "writing, one more token",
    "prefill": "reading a prompt",
    "forward": "a forward pass, all logits",
    "train": "a training step",
}
_WIDTH = 100
_ABOUT_INTERVALS = (
    "n: processes × samples of each. Those of one process are not independent, and of so few processes the interval "
    "reaches about from the lowest one's median to the highest one's; "
    f"of fewer than {LEAST_FOR_INTERVAL} samples it is their range"
)


def summary(record: dict[str, Any]) -> str:
    """The cases in a table, with what limits each; the paper's table; and what to know about the run."""
    model, machine = record["model"], record["environment"]
    lines = [
        f"{model['name']} on {machine['processor']}, {machine['threads']} threads: {model['parameters']:,} parameters, "
        f"weights {model['weights']}; {record['seconds']:.0f} s",
    ]
    for kind, title in _KINDS.items():
        cases = [case for case in record["cases"] if case["kind"] == kind and case["measured"]]
        if cases:
            lines += [
                "",
                f"{title:28} {'':18} {'median':>8}  {'95% interval':>19}  {'n':>5}  {'tokens/s':>8}  "
                f"{'share':>5}  {'bound by':10}  {'memory':>8}",
                *map(_case, cases),
            ]
    lines += ["", *textwrap.wrap(_ABOUT_INTERVALS, _WIDTH, subsequent_indent="  ")]
    if record["quick"]:
        lines += ["memory: at most so much, as the cases of an engine share a process in --quick"]
    lines += [*_paper(record), ""]
    if record["crossing"]:
        lines += [*_wrapped("CPU or GPU", record["crossing"]["verdict"])]
    starts = [
        f"{_contender(entry)} {duration(entry['total']['median'])}" for entry in record["initialisation"]
    ]
    if starts:
        lines += _wrapped("from the shell to the first token", ", ".join(starts))
    for entry in record["ceilings"]:
        lines += _wrapped(f"ceilings of {entry['device']}", _ceilings(entry["floors_from"]))
        if not entry["plan_from"]["holds"]:
            lines += _wrapped("no plan", outdated(entry))
    agree = sum(row["ok"] for row in record["agreement"])
    lines.append(f"agreement: {agree} of {len(record['agreement'])} comparisons within what rounding allows")
    energy = record["energy"]
    lines += [
        f"energy of {row['case']}: {row['joules_per_token']:.3g} J per token ({row['source']})"
        for row in energy["rows"]
    ] or _wrapped("energy", f"not measured: {energy['why'] or 'nothing was left to measure'}")
    for entry in record["left_out"]:
        # Of what has fewer rounds there are cases.
        what = "left out" if entry["what"].startswith("round ") else "not timed"
        lines += _wrapped(what, f"{entry['what']}: {entry['why']}")
    for why in record["quiet"]["reasons"]:
        lines += _wrapped("not quiet", why)
    return "\n".join(lines)


def _wrapped(what: str, text: str) -> list[str]:
    return textwrap.wrap(f"{what}: {text}", _WIDTH, subsequent_indent="  ")


def _case(case: dict[str, Any]) -> str:
    seconds = case["seconds"]
    interval = f"{duration(seconds['low'])} - {duration(seconds['high'])}"
    if case["kind"] == "decode":
        several = f", {case['batch']} texts" if case["batch"] > 1 else ""
        shape = f"after {case['past']:,}{several}"
    else:
        shape = f"{case['batch']}×{case['tokens']:,}"
    shape += ", text" if case["with_text"] else ""
    return (
        f"  {_contender(case):26} {shape:18} {duration(seconds['median']):>8}  {interval:>19}  {_of_rounds(case):>5}  "
        f"{case['tokens_per_s']:8,.0f}  {case['share']:5.0%}  {case['bound_by']:10}  "
        f"{case['peak_memory_bytes'] / 1e6:5,.0f} MB"
    )


def _of_rounds(case: dict[str, Any]) -> str:
    """``"2×24"``: processes of a measured case, and samples of each."""
    return f"{len(case['rounds'])}×{len(case['rounds'][0])}"


def _contender(entry: dict[str, Any]) -> str:
    return f"{entry['engine']} {entry['dtype']} on {entry['device']}"


def _paper(record: dict[str, Any]) -> list[str]:
    """The paper's table; a column of the GPU that is predicted says so."""
    if not record["paper"]:
        return []
    cpu, gpu = record["crossing"]["cpu"].rpartition(", ")[2], record["crossing"]["gpu"].partition(",")[0]
    if not record["crossing"]["gpu_measured"]:
        gpu += ", predicted"
    columns = {
        "paper_cpu": "paper, CPU",
        "paper_gpu": "paper, GPU",
        "torch": "here, PyTorch",
        "cpu": f"here, {cpu}",
        "gpu": gpu,
    }
    widths = {
        key: max(len(title), *(len(row[key]) for row in record["paper"])) for key, title in columns.items()
    }
    first = max(len(row["what"]) for row in record["paper"])
    rows = [{"what": "the paper's §7", **columns}, *record["paper"]]
    return [
        "",
        *(
            f"{row['what']:{first}}  " + "  ".join(f"{row[key]:>{width}}" for key, width in widths.items())
            for row in rows
        ),
    ]


def outdated(entry: dict[str, Any]) -> str:
    """Why the plan's seconds are left out, of an entry of ``ceilings`` whose ``plan_from`` does not hold."""
    found = entry["plan_from"]
    moved = ", ".join(f"{name} by {share:+.0%}" for name, share in found["moved"].items())
    return (
        f"the speeds that gptwo plan has of {entry['device']} are of {found['measured_at']}; its ceilings have moved "
        f"since ({moved})"
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
