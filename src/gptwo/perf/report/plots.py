"""What the report draws: each of a record (``docs/bench-schema.md``), None where it has nothing to show."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from gptwo.perf.report import words
from gptwo.perf.report.figure import INK, MUTED, SERIES, Plot
from gptwo.perf.report.lines import (
    STYLES,
    Case,
    colour,
    colour_of,
    count_axis,
    grouped,
    label,
    legend,
    line,
    measured,
    ordered,
    predicted_label,
    seconds_axis,
)
from gptwo.perf.report.waterfalls import initialisation, training_step

_MARKERS = {"prefill": "o", "decode": "s", "forward": "^", "train": "D"}
_NAMES = {"prefill": "a prompt", "decode": "a token", "forward": "a forward pass", "train": "a training step"}
_DASHED = STYLES[1]


def plots(record: dict[str, Any]) -> list[Plot]:
    """All that this record has figures for."""
    made = (
        crossing(record),
        forward(record),
        *rooflines(record),
        decode(record),
        training_step(record),
        initialisation(record),
        transfers(record),
    )
    return [plot for plot in made if plot is not None]


def rooflines(record: dict[str, Any]) -> list[Plot]:
    """Of each device that was timed."""
    found = [_roofline(record, entry) for entry in record["ceilings"]]
    return [plot for plot in found if plot is not None]


def _roofline(record: dict[str, Any], entry: dict[str, Any]) -> Plot | None:
    """FLOP/s over FLOP per byte, of each timed case, under what the machine reached in products and in reading."""
    device, ceiling = entry["device"], entry["floors_from"]
    own = [case for case in measured(record) if case["device"] == device and not case["with_text"]]
    if not own:
        return None
    dtypes = ordered(case["dtype"] for case in own)
    several = len(record["ceilings"]) > 1

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
                label=f"{dtype}: {words.rate(peak, 'FLOP')}",
            )
        for case, x in zip(own, at, strict=True):
            own_colour = colour(dtypes, case["dtype"])
            axes.plot(
                x,
                case["flops"] / case["seconds"]["median"],
                _MARKERS[case["kind"]],
                color=own_colour,
                markersize=5,
                markerfacecolor=own_colour if case["engine"] == "native" else "none",
            )
        for kind in ordered(case["kind"] for case in own):
            axes.plot(
                [], [], _MARKERS[kind], color=MUTED, markersize=5, markerfacecolor="none", label=_NAMES[kind]
            )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="FLOP for each byte that must be moved",
            ylabel="FLOP per second",
        )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.short(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.short(value)))
        axes.grid(alpha=0.6)
        legend(axes)

    engines = {case["engine"] for case in own}
    return Plot(
        f"roofline-{device.replace(':', '-')}" if several else "roofline",
        f"The roofline of {device}" if several else "The roofline",
        "Each mark is a timed case, the line above it what this machine allows: on the slope memory, at "
        f"{words.rate(ceiling['read_bytes_per_s'], 'B')} read, and on the flat part matrix products."
        + (" Filled: the native engine; hollow: torch." if len(engines) > 1 else ""),
        3.7,
        draw,
    )


def forward(record: dict[str, Any]) -> Plot | None:
    """Seconds of a forward pass over the batch: a colour for each engine and dtype, a dash for each length."""
    cases = [case for case in measured(record) if case["kind"] == "forward"]
    by_batch = {case["tokens"] for case in cases if case["batch"] > 1}
    cases = [case for case in cases if case["tokens"] in by_batch]
    away = [
        case
        for case in record["cases"]
        if case["kind"] == "forward" and not case["measured"] and case["tokens"] in by_batch
    ]
    if not cases:
        return None
    lengths = sorted(by_batch)

    def draw(axes: Axes) -> None:
        lines = grouped(cases, ("device", "engine", "dtype", "tokens"))
        for name, group in lines.items():
            style = STYLES[lengths.index(name[3]) % len(STYLES)]
            title = label(name, record)
            own = colour_of(record, title)
            line(axes, _points(group, "batch"), title if name[3] == lengths[0] else "_", own, style)
        for number, tokens in enumerate(lengths):
            points = sorted((case["batch"], case["predicted_s"]) for case in away if case["tokens"] == tokens)
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=MUTED,
                    marker="o",
                    markersize=3.5,
                    markerfacecolor="none",
                    linewidth=1.1,
                    linestyle=STYLES[number % len(STYLES)],
                    label="_" if number else predicted_label(record),
                )
        if len(lengths) > 1:
            for number, tokens in enumerate(lengths):
                style = STYLES[number % len(STYLES)]
                axes.plot([], [], color=INK, linewidth=1.1, linestyle=style, label=f"T = {tokens}")
        axes.set(xlabel="sequences in the batch, B", ylabel="a forward pass", xscale="log", yscale="log")
        count_axis(axes, [case["batch"] for case in cases])
        seconds_axis(axes)
        axes.grid(alpha=0.6)
        legend(axes)

    of = f"Of {lengths[0]} tokens in each sequence. " if len(lengths) == 1 else ""
    return Plot(
        "latency-by-batch",
        "A forward pass by batch",
        f"{of}Medians; bars are their 95% intervals. A line that rises slower than the batch gains from it.",
        3.6,
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
        for name, group in lines.items():
            title = label(name, record)
            own = colour_of(record, title)
            line(axes, _points(group, "past"), title, own)
            floors = sorted((case["past"], case["floor_s"]) for case in group)
            axes.plot(*zip(*floors, strict=True), color=own, linewidth=0.9, linestyle=_DASHED)
        axes.plot([], [], color=MUTED, linewidth=0.9, linestyle=_DASHED, label="what the machine allows")
        axes.set(xlabel="tokens already in the text", ylabel="one more token")
        axes.set_ylim(0)
        seconds_axis(axes)
        axes.grid(alpha=0.6)
        legend(axes)

    return Plot(
        "decode",
        "One more token",
        "What writing a token costs as the text grows, and below it the floor: what must be read and computed, at this "
        "machine's ceilings.",
        3.7,
        draw,
    )


def crossing(record: dict[str, Any]) -> Plot | None:
    """Seconds from the start to the end of the work on CPU and GPU, over how many tokens are written."""
    found = record["crossing"]
    if not found:
        return None
    also, at = found["also"], found["points"]["tokens"]
    own, quicker = (_contender(record, entry) for entry in (found["cpu"], also["cpu"] if also else None))
    # A device that is not here is grey, as it is among the passes by batch.
    gpu = found["gpu"] if found["gpu_measured"] else predicted_label(record)
    on_gpu = colour_of(record, _contender(record, found["gpu"])) if found["gpu_measured"] else MUTED

    def draw(axes: Axes) -> None:
        curves = found["by_tokens"]
        tokens = [point["tokens"] for point in curves]
        lines = [(own, [point["cpu_s"] for point in curves], at)]
        if also:
            lines.append((quicker, [point["cpu_s"] for point in also["by_tokens"]], also["tokens"]))
        for name, seconds, crosses in lines:
            axes.plot(tokens, seconds, color=colour_of(record, name), label=f"CPU, {name}")
            if crosses is not None and tokens[0] < crosses <= tokens[-1]:
                axes.axvline(crosses, color=colour_of(record, name), linewidth=0.8, linestyle=STYLES[2])
        style = "-" if found["gpu_measured"] else _DASHED
        axes.plot(tokens, [point["gpu_s"] for point in curves], color=on_gpu, linestyle=style, label=gpu)
        axes.set(xlabel="tokens to write", ylabel="from the start to the end", xscale="log", yscale="log")
        seconds_axis(axes)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.short(value)))
        axes.grid(alpha=0.6)
        legend(axes)

    crosses = [f"{words.count(point)} tokens" for point in (at, also and also["tokens"]) if point]
    return Plot(
        "crossing",
        "Where CPU and GPU cross",
        "Start-up and transfers included: left of a crossing the CPU is done first"
        + (f" ({', '.join(crosses)})." if crosses else ".")
        + (
            ""
            if found["gpu_measured"]
            else " The GPU's line is a prediction from its data sheet, not a measurement."
        ),
        3.6,
        draw,
    )


def _contender(record: dict[str, Any], name: str | None) -> str:
    """The ``label`` of what a side of the crossing is called: the processor's name, a comma, engine and dtype."""
    last = (name or "").rpartition(", ")[2]
    own = [label((case["device"], case["engine"], case["dtype"]), record) for case in measured(record)]
    return next((title for title in own if title.endswith(last)), last)


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
        legend(axes)

    return Plot(
        "transfers",
        "Between host and device",
        "Small pieces pay for the way, large ones for the width.",
        3.4,
        draw,
    )


def _points(cases: list[Case], axis: str) -> list[tuple[int, dict[str, Any]]]:
    return sorted(((case[axis], case["seconds"]) for case in cases), key=lambda point: point[0])
