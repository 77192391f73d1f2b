"""What several plots are made of: which cases, under what label, medians with intervals, axes of seconds and counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from gptwo.perf.report import words
from gptwo.perf.report.figure import SERIES

Case = dict[str, Any]


def colour(names: Sequence[Any], name: Any) -> str:
    return SERIES[names.index(name) % len(SERIES)]


# For what tells lines of one colour apart.
STYLES: Sequence[Any] = ("-", (0, (4, 2)), (0, (1, 1.5)))


def line(
    axes: Axes, points: Sequence[tuple[float, dict[str, Any]]], label: str, colour: str, style: Any = "-"
) -> None:
    """Medians with their intervals."""
    medians = [summary["median"] for _, summary in points]
    reach = [
        [max(0.0, summary["median"] - summary["low"]) for _, summary in points],
        [max(0.0, summary["high"] - summary["median"]) for _, summary in points],
    ]
    axes.errorbar(
        [x for x, _ in points],
        medians,
        yerr=reach,
        color=colour,
        marker="o",
        markersize=3.5,
        linewidth=1.4,
        linestyle=style,
        elinewidth=0.9,
        capsize=2,
        label=label,
    )


def seconds_axis(axes: Axes, axis: str = "y") -> None:
    chosen = axes.yaxis if axis == "y" else axes.xaxis
    chosen.set_major_formatter(FuncFormatter(lambda value, _: words.seconds(value) if value > 0 else "0"))
    if chosen.get_scale() == "log":
        chosen.set_minor_formatter(NullFormatter())


def count_axis(axes: Axes, values: list[int]) -> None:
    axes.set_xticks(sorted(set(values)), [words.count(value) for value in sorted(set(values))])
    axes.xaxis.set_minor_formatter(NullFormatter())


def measured(record: dict[str, Any]) -> list[Case]:
    return [case for case in record["cases"] if case["measured"]]


def ordered(values: Iterable[str]) -> list[str]:
    """Each once, in the order in which it comes first."""
    return list(dict.fromkeys(values))


def grouped(cases: Sequence[Case], keys: tuple[str, ...]) -> dict[tuple[Any, ...], list[Case]]:
    groups: defaultdict[tuple[Any, ...], list[Case]] = defaultdict(list)
    for case in cases:
        groups[tuple(case[key] for key in keys)].append(case)
    return dict(groups)


def label(name: Sequence[Any], record: dict[str, Any]) -> str:
    """``native int8``, with the device where several were measured."""
    device, engine, dtype = name[:3]
    several = sum(entry["measured"] for entry in record["devices"]) > 1
    return f"{device} {engine} {dtype}" if several else f"{engine} {dtype}"


def colour_of(record: dict[str, Any], name: str) -> str:
    """The same in every plot for what runs a model, by its ``label``."""
    own = ordered(label((case["device"], case["engine"], case["dtype"]), record) for case in measured(record))
    return colour(own, name)


def predicted_label(record: dict[str, Any]) -> str:
    """What a device that is not here is called, marked as what it is."""
    (gpu,) = [entry for entry in record["devices"] if not entry["measured"]]
    return f"{gpu['label']} (predicted)"


def legend(axes: Axes, columns: int = 2) -> None:
    """Above the axes, where it covers nothing; more columns do not fit a phone."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, columnspacing=1.2, handlelength=1.8
    )
