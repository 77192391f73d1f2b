"""What the report draws: each of a record (``docs/bench-schema.md``), None where it has nothing to show."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from gptwo.perf.report import words
from gptwo.perf.report.figure import GRID, INK, MUTED, SERIES, Plot
from gptwo.perf.report.lines import (
    Case,
    colour,
    count_axis,
    grouped,
    label,
    line,
    measured,
    ordered,
    seconds_axis,
)
from gptwo.perf.report.waterfalls import initialisation, training_step

_MARKERS = {"prefill": "o", "decode": "s", "forward": "^", "train": "D"}


def plots(record: dict[str, Any]) -> list[Plot]:
    """All that this record has figures for."""
    made = (
        roofline(record),
        forward(record),
        decode(record),
        training_step(record),
        initialisation(record),
        crossing(record),
        transfers(record),
    )
    return [plot for plot in made if plot is not None]


def roofline(record: dict[str, Any]) -> Plot | None:
    """FLOP/s over FLOP per byte, of each timed case, under what the machine reached in products and in reading."""
    cases = measured(record)
    ceilings = {entry["device"]: entry["before"] for entry in record["ceilings"]}
    if not cases:
        return None
    devices = [device for device in ceilings if any(case["device"] == device for case in cases)]
    device = devices[0]
    own = [case for case in cases if case["device"] == device]
    ceiling = ceilings[device]
    dtypes = ordered(case["dtype"] for case in own)

    def draw(axes: Axes) -> None:
        bandwidth = ceiling["read_bytes_per_s"]
        at = [case["flops"] / case["bytes"] for case in own]
        left, right = min(at) / 3, max(at) * 3
        for dtype in dtypes:
            peak = ceiling["matmul_flops_per_s"].get(dtype)
            if peak is None:
                continue
            ridge = peak / bandwidth
            axes.plot(
                [left, max(ridge, left), max(right, ridge)],
                [left * bandwidth, max(peak, left * bandwidth), peak],
                color=colour(dtypes, dtype),
                linewidth=1.4,
                label=f"{dtype} products: {words.rate(peak, 'FLOP')}",
            )
        axes.plot([left, right], [left * bandwidth, right * bandwidth], color=GRID, linewidth=1.2, zorder=0)
        for case, x in zip(own, at, strict=True):
            axes.plot(
                x,
                case["flops"] / case["seconds"]["median"],
                _MARKERS[case["kind"]],
                color=colour(dtypes, case["dtype"]),
                markersize=5,
                markerfacecolor="none",
            )
        for kind in ordered(case["kind"] for case in own):
            axes.plot([], [], _MARKERS[kind], color=MUTED, markersize=5, markerfacecolor="none", label=kind)
        axes.set(
            xscale="log", yscale="log", xlabel="FLOP per byte that must be read or written", ylabel="FLOP/s"
        )
        reached = [case["flops"] / case["seconds"]["median"] for case in own]
        axes.set_ylim(min(reached) / 3, 40 * max([*reached, *ceiling["matmul_flops_per_s"].values()]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.rate(value, "")[:-2]))
        axes.grid(alpha=0.6)
        axes.legend(loc="upper left", ncols=2, handlelength=1.4)

    return Plot(
        "roofline",
        "The roofline",
        f"Each mark is a timed case on {device}. Left of the bend memory sets the limit, right of it arithmetic. "
        f"The lines were measured here: reading {words.rate(ceiling['read_bytes_per_s'], 'B')}.",
        3.6,
        draw,
    )


def forward(record: dict[str, Any]) -> Plot | None:
    """Seconds of a forward pass over the batch, a line for each length, engine and dtype."""
    cases = [case for case in measured(record) if case["kind"] == "forward"]
    lines = grouped(cases, ("device", "engine", "dtype", "tokens"))
    if not cases:
        return None

    def draw(axes: Axes) -> None:
        names = list(lines)
        for name, group in lines.items():
            points = _points(group, "batch")
            line(axes, points, label(name, record, last="T = {}"), colour(names, name))
        axes.set(xlabel="sequences in the batch, B", ylabel="a forward pass", xscale="log", yscale="log")
        count_axis(axes, [case["batch"] for case in cases])
        seconds_axis(axes)
        axes.legend()

    return Plot(
        "latency-by-batch",
        "A forward pass by batch",
        "Medians; bars are their 95% intervals. A line that rises slower than the batch gains from it.",
        3.2,
        draw,
    )


def decode(record: dict[str, Any]) -> Plot | None:
    """Seconds per token over the tokens already read, a line for each engine and dtype, one text at a time."""
    cases = [
        case
        for case in measured(record)
        if case["kind"] == "decode" and case["batch"] == 1 and not case["with_text"]
    ]
    lines = grouped(cases, ("device", "engine", "dtype"))
    if not cases:
        return None

    def draw(axes: Axes) -> None:
        names = list(lines)
        for name, group in lines.items():
            own = colour(names, name)
            line(axes, _points(group, "past"), label(name, record), own)
            floors = sorted((case["past"], case["floor_s"]) for case in group)
            axes.plot(*zip(*floors, strict=True), color=own, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.plot(
            [],
            [],
            color=MUTED,
            linewidth=0.9,
            linestyle=(0, (3, 2)),
            label="floor: bytes or FLOPs over ceiling",
        )
        axes.set(xlabel="tokens already in the text", ylabel="one more token")
        axes.set_ylim(0)
        seconds_axis(axes)
        axes.legend()

    return Plot(
        "decode",
        "One more token",
        "What writing a token costs as the text grows, and below it what this machine's memory and arithmetic allow.",
        3.2,
        draw,
    )


def crossing(record: dict[str, Any]) -> Plot | None:
    """Seconds from the start to the end of the work on CPU and GPU, over how many tokens are written."""
    found = record["crossing"]
    curves = (found or {}).get("by_tokens") or []
    if not curves:
        return None
    measured = found["gpu_measured"]

    def draw(axes: Axes) -> None:
        tokens = [point["tokens"] for point in curves]
        axes.plot(tokens, [point["cpu_s"] for point in curves], color=SERIES[0], label=found["cpu"])
        axes.plot(
            tokens,
            [point["gpu_s"] for point in curves],
            color=SERIES[1],
            linestyle="-" if measured else (0, (4, 2)),
            label=found["gpu"] + ("" if measured else " (predicted)"),
        )
        at = (found.get("points") or {}).get("tokens")
        if at is not None and tokens[0] <= at <= tokens[-1]:
            axes.axvline(at, color=MUTED, linewidth=0.8, linestyle=":")
            axes.annotate(
                f"{words.count(at)} tokens",
                (at, 0.02),
                xycoords=("data", "axes fraction"),
                xytext=(4, 2),
                textcoords="offset points",
                color=INK,
            )
        axes.set(xlabel="tokens to write", ylabel="from the start to the end", xscale="log", yscale="log")
        seconds_axis(axes)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.count(value)))
        axes.grid(alpha=0.6)
        axes.legend()

    return Plot(
        "crossing",
        "Where CPU and GPU cross",
        "Start-up and transfers included: left of the crossing the CPU is done first."
        + ("" if measured else " The GPU's line is a prediction from its datasheet, not a measurement."),
        3.2,
        draw,
    )


def transfers(record: dict[str, Any]) -> Plot | None:
    """Bytes per second between host and device, by size."""
    curves = [
        (f"{direction.replace('_', ' ')}, {kind}", fit["samples"])
        for entry in record["ceilings"]
        for direction, kinds in (entry["before"].get("transfers") or {}).items()
        for kind, fit in kinds.items()
    ]
    if not curves:
        return None

    def draw(axes: Axes) -> None:
        for number, (name, samples) in enumerate(curves):
            axes.plot(
                [size for size, _ in samples],
                [size / taken for size, taken in samples],
                color=SERIES[number % len(SERIES)],
                label=name,
            )
        axes.set(xlabel="bytes", ylabel="bytes per second", xscale="log", yscale="log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.size(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.rate(value, "B")))
        axes.grid(alpha=0.6)
        axes.legend()

    return Plot(
        "transfers",
        "Between host and device",
        "Small pieces pay for the way, large ones for the width.",
        3.2,
        draw,
    )


def _points(cases: list[Case], axis: str) -> list[tuple[int, dict[str, Any]]]:
    return sorted(((case[axis], case["seconds"]) for case in cases), key=lambda point: point[0])
