"""What follows what, and how long each takes: a training step, and the way to the first token."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gptwo.perf.report import words
from gptwo.perf.report.figure import GRID, INK, MUTED, Plot
from gptwo.perf.report.lines import Case, colour, label, measured, ordered, seconds_axis

# What a part of a start is called in the legend.
_STEPS = {"python": "Python", "device": "threads or context", "capture": "capture of graphs"}


def training_step(record: dict[str, Any]) -> Plot | None:
    """The waterfall of a training step, a block of rows for each that was timed; below each its floor."""
    cases = [case for case in measured(record) if case["kind"] == "train" and case["split"]][:3]
    if not cases:
        return None
    rows = sum(len(case["split"]) + 1 for case in cases) + len(cases) - 1

    def draw(axes: Axes) -> None:
        parts = ordered(part for case in cases for part in case["split"])
        labels: dict[float, str] = {}
        row = 0
        for case in cases:
            row = _cascade(axes, case, parts, labels, row) + 1
        axes.set_yticks(list(labels), list(labels.values()))
        _axes(axes, margin=0.24)

    return Plot(
        "training-step",
        "A training step",
        f"{'; '.join(map(_step, cases))}. Each part begins where the one before it ends; the floor is what the machine "
        "allows.",
        0.9 + 0.36 * rows,
        draw,
    )


def _step(case: Case) -> str:
    return (
        f"{case['batch']}×{case['tokens']} tokens with {case['engine']} {case['dtype']} on {case['device']}"
    )


def _cascade(axes: Axes, case: Case, parts: list[str], labels: dict[float, str], row: int) -> int:
    """Draws one step from ``row`` on; the row after its last."""
    begin, whole = 0.0, sum(case["split"].values())
    for part, taken in case["split"].items():
        axes.barh(row, taken, left=begin, height=0.66, color=colour(parts, part))
        axes.plot([begin + taken] * 2, [row + 0.33, row + 0.67], color=MUTED, linewidth=0.7)
        begin += taken
        labels[row] = part
        _beside(axes, begin, row, f"{words.seconds(taken)}, {words.share(taken / whole)}")
        row += 1
    axes.barh(row, case["floor_s"], height=0.66, color=GRID, edgecolor=MUTED, linewidth=0.8)
    labels[row] = "floor"
    _beside(axes, case["floor_s"], row, words.seconds(case["floor_s"]))
    return row + 1


def initialisation(record: dict[str, Any]) -> Plot | None:
    """The waterfall from the shell to the first token."""
    entries = record["initialisation"][:6]
    if not entries:
        return None

    def draw(axes: Axes) -> None:
        parts = ordered(step["name"] for entry in entries for step in entry["steps"])
        labels = [label((entry["device"], entry["engine"], entry["dtype"]), record) for entry in entries]
        for row, entry in enumerate(entries):
            begin = 0.0
            for step in entry["steps"]:
                taken = step["summary"]["median"]
                axes.barh(row, taken, left=begin, height=0.62, color=colour(parts, step["name"]))
                begin += taken
            _beside(axes, begin, row, words.seconds(begin))
        axes.set_yticks(range(len(labels)), [label.replace(" ", "\n", 1) for label in labels])
        for part in parts:
            axes.barh(0, 0, color=colour(parts, part), label=_STEPS.get(part, part))
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, columnspacing=1.0, handlelength=0.9
        )
        _axes(axes, margin=0.16)

    return Plot(
        "initialisation",
        "From the shell to the first token",
        "A fresh process each time, the weights in the system's memory; medians.",
        1.5 + 0.45 * len(entries),
        draw,
    )


def _beside(axes: Axes, x: float, row: float, text: str) -> None:
    axes.annotate(
        text, (x, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=INK
    )


def _axes(axes: Axes, *, margin: float) -> None:
    axes.invert_yaxis()
    axes.margins(x=margin)
    axes.set_xlim(0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", length=0)
    seconds_axis(axes, axis="x")
