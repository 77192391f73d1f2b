"""A figure in this report's look: as SVG whose colours follow the page's theme, or as PNG on white."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# In an SVG each of these becomes a variable of the page's style sheet, which has it in a light and a dark form. These
# are the light form, and a PNG's.
INK, MUTED, GRID = "#1d2430", "#5d6778", "#dfe3ea"
SERIES = ("#2563a8", "#c2571a", "#1f7a54", "#8a4fb0", "#a8741a", "#b23a5b", "#1b7f8c", "#7a8290")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)
}
# Inches. At 72 units an inch this is the width of a phone's column, so that letters there have the size they have here.
_WIDTH = 4.5
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
}

Draw = Callable[[Axes], None]


@dataclass(frozen=True)
class Plot:
    """``name`` of its file, what it is called and shows, its height in inches, and how it is drawn."""

    name: str
    title: str
    note: str
    height: float
    draw: Draw


def svg(plot: Plot) -> str:
    """The plot as an element for a page."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": plot.name}):
        buffer = io.StringIO()
        _figure(plot).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    # Without a size of its own it takes the width of its place.
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)
    # Two figures on one page must not have the same ids.
    for pattern in (r'id="', r'href="#', r"url\(#"):
        text = re.sub(pattern, lambda found: f"{found[0]}{plot.name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(f"{plot.title}. {plot.note}")}" ', 1)


def png(plot: Plot, target: Path) -> None:
    """The same as a file, on white."""
    with matplotlib.rc_context(_STYLE):
        _figure(plot).savefig(target, format="png", dpi=200, facecolor="white")


def _figure(plot: Plot) -> Figure:
    # A Figure of its own, without pyplot: no global state, no window system.
    figure = Figure(figsize=(_WIDTH, plot.height), layout="constrained")
    axes = figure.subplots()
    plot.draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
