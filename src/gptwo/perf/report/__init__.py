"""The report of ``gptwo bench``: one HTML file, and its plots as PNGs, made of the record alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gptwo.base.errors import StorageError
from gptwo.perf.report import words
from gptwo.perf.report.figure import Plot, png, svg
from gptwo.perf.report.plots import plots


def html(record: dict[str, Any]) -> str:
    """The whole report as one page that needs nothing else: ``record`` is what ``gptwo bench --json`` writes."""
    environment = Environment(
        loader=PackageLoader("gptwo.perf.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["words"] = words
    template = environment.get_template("report.html.jinja")
    return template.render(
        record=record, plots=[(plot, _inline(plot)) for plot in plots(record)], best=_best(record)
    )


def pngs(record: dict[str, Any], folder: Path) -> list[Path]:
    """Each plot as ``FOLDER/NAME.png``; the files written. ``StorageError`` when the disk refuses."""
    targets = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for plot in plots(record):
            targets.append(folder / f"{plot.name}.png")
            png(plot, targets[-1])
    except OSError as error:
        raise StorageError(f"cannot write plots to {folder}: {error.strerror or error}") from error
    return targets


def _inline(plot: Plot) -> Markup:
    # matplotlib escapes what stands in a figure.
    return Markup(svg(plot))


def _best(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each kind of work the measured case of most tokens per second: the figures at the head of the page."""
    found = []
    for kind, title in (("decode", "writing"), ("prefill", "reading a prompt"), ("train", "training")):
        cases = [case for case in record["cases"] if case["kind"] == kind and case["measured"]]
        alone = [case for case in cases if kind == "train" or (case["batch"] == 1 and not case["with_text"])]
        if alone:
            found.append({"title": title, "case": max(alone, key=lambda case: float(case["tokens_per_s"]))})
    return found
