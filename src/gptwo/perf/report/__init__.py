"""The report of ``gptwo bench``: one HTML file, and its plots as PNGs, made of the record alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gptwo.base.errors import StorageError
from gptwo.perf.report import words
from gptwo.perf.report.figure import Plot, png, svg
from gptwo.perf.report.lines import label, ordered, predicted_label
from gptwo.perf.report.plots import plots
from gptwo.perf.summary import outdated


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
        record=record,
        plots={plot.name: (plot, _inline(plot)) for plot in plots(record)},
        best=_best(record),
        name=lambda entry: _name(entry, record),
        predicted=predicted_label(record)
        if not all(entry["measured"] for entry in record["devices"])
        else "",
        tables=_tables(record),
        pairs=_pairs(record),
        shapes=_shapes(record),
        outdated=outdated,
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
    """Of each kind of work the measured case of most tokens per second: the figures at the head of the page.

    Writing is that of one text, at the middle of the depths that were measured.
    """
    found = []
    for kind, title in (("decode", "writing"), ("prefill", "reading a prompt"), ("train", "training")):
        cases = [case for case in record["cases"] if case["kind"] == kind and case["measured"]]
        alone = [case for case in cases if kind == "train" or (case["batch"] == 1 and not case["with_text"])]
        if kind == "decode":
            depths = sorted({case["past"] for case in alone})
            alone = [case for case in alone if case["past"] == depths[len(depths) // 2]]
        if alone:
            found.append({"title": title, "case": max(alone, key=lambda case: float(case["tokens_per_s"]))})
    return found


def _name(entry: dict[str, Any], record: dict[str, Any]) -> str:
    """Of a case or a start: what ran it."""
    if not entry.get("measured", True):
        return f"{entry['engine']} {entry['dtype']}"
    return label((entry["device"], entry["engine"], entry["dtype"]), record)


def _tables(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The cases by what they are of, in the order in which they are shown."""
    found = []
    for kind, title in (
        ("decode", "Writing: one more token"),
        ("prefill", "Reading a prompt"),
        ("forward", "A forward pass, to the logits of every token"),
        ("train", "A training step"),
    ):
        cases = [case for case in record["cases"] if case["kind"] == kind]
        if cases:
            found.append({"kind": kind, "title": title, "cases": cases})
    return found


def _pairs(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each pair that was compared, with its distance in everything that both compute."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in record["agreement"]:
        pair = found.setdefault(
            (row["a"], row["b"]), {"a": row["a"], "b": row["b"], "of": {}, "ok": True, "why": row["why"]}
        )
        pair["of"][row["what"]] = row
        pair["ok"] &= row["ok"]
    return list(found.values())


def _shapes(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each device the products of GPT-2's own shapes: dtypes, and by shape the FLOP/s of each."""
    found = []
    for entry in record["ceilings"]:
        by_shape = entry["before"]["model_matmul_flops_per_s"]
        dtypes = ordered(dtype for speeds in by_shape.values() for dtype in speeds)
        found.append({"device": entry["device"], "dtypes": dtypes, "by_shape": by_shape})
    return found
