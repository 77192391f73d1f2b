"""``RUN/loss.png``, redrawn at each evaluation from ``metrics.jsonl``."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from gptwo.train.metrics import read_metrics


def plot_loss(metrics: Path, target: Path, *, title: str) -> None:
    """Training loss (thin: as logged; thick: smoothed) and validation loss over steps, in nats per token."""
    records = read_metrics(metrics)
    train = [(r["step"], r["loss"]) for r in records if "loss" in r]
    validation = [(r["step"], r["val_loss"]) for r in records if "val_loss" in r]
    # A Figure of its own, without pyplot: no global state, no window system.
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    if train:
        steps, losses = zip(*train, strict=True)
        axes.plot(steps, losses, color="#9bb8d3", linewidth=0.8)
        axes.plot(steps, _smooth(losses), color="#1f5f99", linewidth=1.8, label="training")
    if validation:
        steps, losses = zip(*validation, strict=True)
        axes.plot(steps, losses, "o-", color="#c8553d", linewidth=1.8, markersize=4, label="validation")
        axes.annotate(
            f"{losses[-1]:.3f}",
            (steps[-1], losses[-1]),
            textcoords="offset points",
            xytext=(0, -14),
            ha="right",
        )
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.set_title(title, parse_math=False)  # a folder may be called $x^$
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    partial = target.with_name(f".{target.name}.partial")
    figure.savefig(partial, format="png")
    partial.replace(target)


def _smooth(values: tuple[float, ...]) -> list[float]:
    """Mean over a window of a thirtieth of the curve around each point: unlike a running average it does not lag."""
    reach = len(values) // 60
    return [
        sum(values[max(0, i - reach) : i + reach + 1]) / len(values[max(0, i - reach) : i + reach + 1])
        for i in range(len(values))
    ]
