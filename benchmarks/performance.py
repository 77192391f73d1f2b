"""Write the tables of docs/performance.md from benchmarks/history/: `python benchmarks/performance.py [--check]`.

Every bar of decoding is that of the newest run of GPT-2 124M that measured it, so that the parts may be run one by one;
the other tables (serving, the page in a browser, plans, what `gptwo bench` found, how ceilings repeat) are of the
newest whole run. The prose is written by hand; what stands between the markers is made here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plan_bars
import record
from serving import bars as serving

from gptwo.perf.ceilings import QUIET_DRIFT
from gptwo.perf.environment import BUSY
from gptwo.perf.report import words

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- made by benchmarks/performance.py: begin -->", "<!-- end -->"
BEGIN_SERVE = "<!-- made by benchmarks/performance.py: begin serve -->"
BEGIN_PAGE = "<!-- made by benchmarks/performance.py: begin page -->"
BEGIN_PLAN = "<!-- made by benchmarks/performance.py: begin plan -->"
BEGIN_BENCH = "<!-- made by benchmarks/performance.py: begin bench -->"
BEGIN_CEILINGS = "<!-- made by benchmarks/performance.py: begin ceilings -->"
SIZE = "gpt2"


def newest(history: Path) -> dict[int, dict[str, Any]]:
    """Of each bar, the newest line that measured it."""
    if not history.exists():
        return {}
    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    return {bar: line for line in lines if line["size"] == SIZE for bar in line["only"]}


def tables(history: Path) -> str:
    """The speeds, the bars, and of what runs they are."""
    runs = newest(history)
    if not runs:
        return "Not measured yet: `python benchmarks/decode.py`."
    return "\n\n".join([_speeds(runs), _bars(runs), *_runs(runs)])


def _speeds(runs: dict[int, dict[str, Any]]) -> str:
    """Tokens per second; where two bars need a workload, of the newer run."""
    speeds: dict[str, dict[str, str]] = {}
    workloads: dict[str, list[int]] = {}
    for line in sorted(runs.values(), key=lambda line: str(line["time"])):
        for engine, found in line["engines"].items():
            for name, figure in found.items():
                workloads[name] = line["workloads"][name]
                speed = figure["tokens_per_s"]["median"]
                speeds.setdefault(engine, {})[name] = f"{speed:,.{0 if speed >= 100 else 1}f}"
    if not speeds:
        return ""
    names = sorted(workloads, key=lambda name: (workloads[name][2] == 0, workloads[name]))
    head = [_column(*workloads[name]) for name in names]
    rows = [[engine, *(found.get(name, "-") for name in names)] for engine, found in speeds.items()]
    return _table(["tokens per second", *head], rows)


def _column(rows: int, prompt: int, count: int) -> str:
    if not count:
        return f"prefill {prompt:,}"
    return f"{count} after {prompt}" + (f", {rows} rows" if rows > 1 else "")


def _bars(runs: dict[int, dict[str, Any]]) -> str:
    rows = []
    for number, line in sorted(runs.items()):
        for row in line["bars"]:
            if row["bar"] == number:
                value = "-" if row["value"] is None else f"{row['value']:.2f}"
                goal = f"{'≤' if row['at_most'] else '≥'} {row['target']:g}"
                rows.append(
                    [str(number), row["what"], row["figure"], row["against"], value, goal, row["verdict"]]
                )
    return _table(["bar", "what", "gptwo", "beside", "ratio", "goal", ""], rows)


def _runs(runs: dict[int, dict[str, Any]]) -> list[str]:
    """One paragraph for each run that a bar is of."""
    lines: dict[str, list[int]] = {}
    for number, line in sorted(runs.items()):
        lines.setdefault(json.dumps(line), []).append(number)
    return [
        _described(json.loads(text), f"Bar{'' if len(bars) == 1 else 's'} {', '.join(map(str, bars))}: ")
        for text, bars in lines.items()
    ]


def _described(line: dict[str, Any], what: str) -> str:
    machine = line["machine"]
    versions = ", ".join(
        f"{name} {version}" for name, version in machine.items() if name in ("python", "torch")
    )
    peers = ", ".join(f"{name} {version}" for name, version in line["peers"].items())
    rounds = "one round" if line["rounds"] == 1 else f"medians of {line['rounds']} rounds"
    text = (
        f"{what}{line['time'][:10]}, commit {line['commit']}, {machine['processor']} "
        f"({machine['capability']}), {line['threads']} threads, {rounds}; {versions}"
        f"{'; ' + peers if peers else ''}."
    )
    for name, reason in line["left_out"].items():
        text += f" Left out: {name} ({reason})."
    if line["others_share"] > BUSY:
        text += f" **The machine was busy**: other processes took {line['others_share']:.0%} of it."
    return text


def serve_tables(history: Path) -> str:
    """The same of serving."""
    line = serving.newest(history)
    if line is None:
        return "Not measured yet: `python benchmarks/serve.py`."
    cells = [
        [
            *(row["what"], row["figure"], row["against"]),
            "-" if row["value"] is None else f"{row['value']:.2f}",
            *(f"≥ {row['target']:g}", row["verdict"]),
        ]
        for row in line["bars"]
    ]
    bars = _table(["bar", "gptwo", "beside", "ratio", "goal", ""], cells)
    client = max(
        one["client_cpu_share"]["max"] for loads in line["servers"].values() for one in loads.values()
    )
    closing = (
        f"{_described(line, '')} A load lasts {line['limit_s']:g} s at most. The clients together took at most "
        f"{client:.1%} of one core."
    )
    return "\n\n".join([_table(*serving.speeds(line)), bars, closing])


def plan_tables(history: Path) -> str:
    """Of the newest rounds, each case as it was planned and as it was."""
    runs = plan_bars.newest(history)
    if not runs:
        return "Not measured yet: `python benchmarks/plan.py`."
    found = [row for lines in runs for row in plan_bars.verdicts([line["cases"] for line in lines])]
    rows = [
        [
            row["case"],
            _milliseconds(row["predicted_s"]),
            _milliseconds(row["measured_s"]),
            f"{row['time_ratio'] - 1:+.0%}",
            row["time"],
            f"{row['predicted_bytes'] / 1e6:,.0f} MB",
            f"{row['measured_bytes'] / 1e6:,.0f} MB",
            f"{row['memory_ratio'] - 1:+.0%}",
            row["memory"],
        ]
        for row in found
    ]
    hits = {what: sum(row[what] == "HIT" for row in found) for what in ("time", "memory")}
    closing = (
        f"Time: {hits['time']} of {len(rows)} cases within ±{plan_bars.TIME_BAR:.0%}. Peak memory: {hits['memory']} of "
        f"{len(rows)} within ±{plan_bars.MEMORY_BAR:.0%} and not under by more than {plan_bars.MEMORY_UNDER_BAR:.0%}."
    )
    described = [
        _described(
            {"peers": {}, "left_out": {}, **lines[-1], "rounds": len(lines),
             "others_share": max(line["others_share"] for line in lines)},
            f"{lines[-1]['size']}: ",
        )
        for lines in runs
    ]  # fmt: skip
    if unsteady := [row["case"] for row in found if not row["steady"]]:
        described.append(f"The machine did not hold still in every round of: {', '.join(unsteady)}.")
    table = _table(["case", "plan", "measured", "", "", "peak, plan", "measured", "", ""], rows)
    return "\n\n".join([table, closing, *described])


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.{3 if seconds < 1e-3 else 1}f} ms"


def bench_tables(history: Path) -> str:
    """Of the newest record: the paper's table, every case by what ran it, and what to know of the run."""
    if not history.exists():
        return "Not measured yet: `gptwo bench gpt2 --json RECORD.json` and `python benchmarks/bench.py RECORD.json`."
    found = json.loads(history.read_text(encoding="utf-8").splitlines()[-1])
    crossed, machine, quiet = found["crossing"], found["environment"], found["quiet"]
    gpu = crossed["gpu"].partition(",")[0] + ("" if crossed["gpu_measured"] else " (a prediction)")
    head = [
        "§7",
        "paper, CPU",
        "paper, GPU",
        "here, PyTorch",
        f"here, {crossed['cpu'].rpartition(', ')[2]}",
        gpu,
    ]
    paper = [
        [row[key] for key in ("what", "paper_cpu", "paper_gpu", "torch", "cpu", "gpu")]
        for row in found["paper"]
    ]
    by_shape: dict[str, dict[str, str]] = {}
    engines: dict[str, None] = {}
    for case in found["cases"]:
        if case["measured"]:
            engine = f"{case['engine']} {case['dtype']}"
            engines[engine] = None
            figure = f"{words.seconds(case['seconds']['median'])} ({case['share']:.0%})"
            by_shape.setdefault(_shape(case), {})[engine] = figure
    cases = [
        [shape, *(figures.get(engine, "-") for engine in engines)] for shape, figures in by_shape.items()
    ]
    closing = (
        f"{crossed['verdict']} {found['created'][:10]}, commit {found['commit']}, {machine['processor']} "
        f"({machine['capability']}), {machine['threads']} threads, {found['seconds']:.0f} s"
        f"{', the quick form' if found['quick'] else ''}; torch {machine['torch']}. "
        + (f"**Not quiet**: {'; '.join(quiet['reasons'])}." if quiet["reasons"] else "The machine was quiet.")
    )
    return "\n\n".join(
        [_table(head, paper), _table(["median (share of the floor)", *engines], cases), closing]
    )


def _shape(case: dict[str, Any]) -> str:
    text = ", as text" if case["with_text"] else ""
    if case["kind"] == "decode":
        return (
            f"a token after {case['past']:,}"
            + (f", {case['batch']} texts" if case["batch"] > 1 else "")
            + text
        )
    names = {"prefill": "prompt", "forward": "forward pass", "train": "training step"}
    return f"{names[case['kind']]}, {case['batch']}×{case['tokens']:,}{text}"


def ceilings_tables(history: Path) -> str:
    """Of the newest run, each ceiling and how far its values were apart."""
    if not history.exists():
        return "Not measured yet: `python benchmarks/ceilings.py`."
    line = json.loads(history.read_text(encoding="utf-8").splitlines()[-1])
    rows = [
        [
            name,
            f"{found['median']:,.1f}",
            f"{found['min']:,.1f} to {found['max']:,.1f}",
            f"{found['apart']:.1%}",
            "HIT" if found["apart"] <= QUIET_DRIFT else "MISS",
        ]
        for name, found in line["figures"].items()
    ]
    runs = len(next(iter(line["figures"].values()))["values"])
    closing = (
        f"{runs} runs of {line['seconds']:.0f} s, one after another ({line['disturbed']} more were left out, as other "
        f"processes were at work); from one to the next some ceiling moved by more "
        f"than {QUIET_DRIFT:.0%} in {line['steps_above']} of {line['steps']} steps. "
        f"{_described({'peers': {}, 'left_out': {}, 'rounds': runs, **line}, '')}"
    )
    return "\n\n".join([_table(["ceiling", "median", "least to greatest", "apart", "≤ 5%"], rows), closing])


def page_tables(history: Path) -> str:
    """Of the newest run, the bars of the page, and how long each panel took."""
    if not history.exists():
        return "Not measured yet: `python benchmarks/page.py`."
    line = json.loads(history.read_text(encoding="utf-8").splitlines()[-1])
    bars = [
        [
            row["what"],
            "-" if row["value"] is None else _quantity(row["value"], row["unit"]),
            f"≤ {_quantity(row['most'], row['unit'])}",
            row["verdict"],
        ]
        for row in line["bars"]
    ]
    panels = [
        [panel, *(_quantity(found[key], "ms") for key in ("median", "min", "max"))]
        for panel, found in line["redraw_ms"].items()
    ]
    closing = _described({"peers": {"Chromium": line["chromium"]}, "left_out": {}, **line}, "")
    if "scroll_frame_ms" in line:
        frame = line["scroll_frame_ms"]
        closing += (
            f" While 1,024 tokens' heads are scrolled a frame takes {frame['median']:.0f} ms, and 95 of 100 at most "
            f"{frame['p95']:.0f} ms."
        )
    return "\n\n".join(
        [
            _table(["bar", "gptwo", "goal", ""], bars),
            _table(["panel redrawn, 32 tokens", "median", "least", "most"], panels),
            closing,
        ]
    )


def _quantity(value: float, unit: str) -> str:
    if unit == "ms":
        return f"{value:,.0f} ms"
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:,.0f} kB"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def page(text: str, history: Path, *, begin: str = BEGIN, made: Callable[[Path], str] = tables) -> str:
    """The page with the tables after ``begin`` made anew. ``ValueError`` without the markers."""
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no {begin} … {END}")
    return f"{before}{begin}\n\n{made(history)}\n\n{END}{after}"


def whole_page(text: str, history: Path) -> str:
    """The page with all of its tables made anew from the records in the folder ``history``."""
    text = page(text, history / "decode.jsonl")
    text = page(text, history / "serve.jsonl", begin=BEGIN_SERVE, made=serve_tables)
    text = page(text, history / "page.jsonl", begin=BEGIN_PAGE, made=page_tables)
    text = page(text, history / "plan.jsonl", begin=BEGIN_PLAN, made=plan_tables)
    text = page(text, history / "bench.jsonl", begin=BEGIN_BENCH, made=bench_tables)
    return page(text, history / "ceilings.jsonl", begin=BEGIN_CEILINGS, made=ceilings_tables)


def main(arguments: list[str]) -> int:
    """Write the page; with --check only say whether it is fresh, by the exit code."""
    text = PAGE.read_text(encoding="utf-8")
    made = whole_page(text, record.HISTORY)
    if "--check" in arguments:
        return int(made != text)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
