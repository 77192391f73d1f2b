"""What follows what, and how long each takes: a training step, and the way to the first token."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gptwo.perf.report import words
from gptwo.perf.report.figure import Plot
from gptwo.perf.report.lines import colour, label, measured, ordered, seconds_axis


def training_step(record: dict[str, Any]) -> Plot | None:
    """The waterfall of a training step: what follows what, and how long it takes."""
    cases = [case for case in measured(record) if case["kind"] == "train" and case["split"]]
    if not cases:
        return None
    cases = cases[:4]

    def draw(axes: Axes) -> None:
        parts = ordered(part for case in cases for part in case["split"])
        labels = [f"{case['batch']}×{case['tokens']}\n{case['dtype']}" for case in cases]
        for row, case in enumerate(cases):
            waterfall(axes, row, [(part, case["split"].get(part, 0.0)) for part in parts], parts)
        waterfall_axes(axes, labels, parts)

    return Plot(
        "training-step",
        "A training step",
        "From left to right as it happens: the rows are fetched, forward, backward, and the optimizer.",
        1.3 + 0.55 * len(cases),
        draw,
    )


def initialisation(record: dict[str, Any]) -> Plot | None:
    """The waterfall from the shell to the first token."""
    entries = record["initialisation"][:6]
    if not entries:
        return None

    def draw(axes: Axes) -> None:
        parts = ordered(step["name"] for entry in entries for step in entry["steps"])
        labels = [label((entry["device"], entry["engine"], entry["dtype"]), record) for entry in entries]
        for row, entry in enumerate(entries):
            taken = {step["name"]: step["summary"]["median"] for step in entry["steps"]}
            waterfall(axes, row, [(part, taken.get(part, 0.0)) for part in parts], parts)
        waterfall_axes(axes, [label.replace(" ", "\n", 1) for label in labels], parts)

    return Plot(
        "initialisation",
        "From nothing to the first token",
        "A fresh process each time, medians.",
        1.4 + 0.5 * len(entries),
        draw,
    )


def waterfall(axes: Axes, row: int, steps: list[tuple[str, float]], parts: list[str]) -> None:
    begin, whole = 0.0, sum(taken for _, taken in steps)
    for part, taken in steps:
        axes.barh(row, taken, left=begin, height=0.62, color=colour(parts, part))
        begin += taken
    axes.annotate(
        words.seconds(whole), (begin, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
    )


def waterfall_axes(axes: Axes, labels: list[str], parts: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlim(0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", length=0)
    seconds_axis(axes, axis="x")
    for part in parts:
        axes.barh(0, 0, color=colour(parts, part), label=part.replace("_", " "))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1.0, handlelength=0.9)
