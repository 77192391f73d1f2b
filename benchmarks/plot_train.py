"""Draw the curves of the newest line of each bar in history/train.jsonl: `python benchmarks/plot_train.py OUT.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import record
from matplotlib.figure import Figure

_PANELS = {
    "shakespeare": ("Shakespeare by character", "seconds", {"peer": "nanoGPT's recipe", "whole": "gptwo"}),
    "bpe": (
        "standard library, BPE, 10M parameters",
        "steps",
        {"adamw": "AdamW, cosine", "muon": "Muon, wsd"},
    ),
}


def newest_lines(history: Path) -> dict[str, dict[str, Any]]:
    """The last line of each bar."""
    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    return {line["bar"]: line for line in lines}


def draw(history: Path, out: Path) -> None:
    """One panel per bar: the training loss of the first round, smoothed."""
    lines = newest_lines(history)
    panels = [bar for bar in _PANELS if bar in lines]
    figure = Figure(figsize=(4 * len(panels), 2.8), dpi=100, layout="constrained")
    for axes, bar in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        title, unit, names = _PANELS[bar]
        for name, label in names.items():
            curve = lines[bar]["curves"][name]
            axes.plot([x for x, _ in curve], [loss for _, loss in curve], label=label)
        least = min(loss for name in names for _, loss in lines[bar]["curves"][name])
        axes.set(
            title=title, xlabel=unit, ylabel="training loss, nats per token", ylim=(0.95 * least, 2 * least)
        )
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out)


if __name__ == "__main__":
    draw(record.HISTORY / "train.jsonl", Path(sys.argv[1]))
