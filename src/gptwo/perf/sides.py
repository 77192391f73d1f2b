"""What stands on each side of CPU or GPU: a device that was measured, or one that is predicted from its data sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gptwo.config import GPT2Config
from gptwo.costs import weight_bytes
from gptwo.perf.crossing import Side
from gptwo.perf.figures import forward_seconds
from gptwo.perf.machines import Machine
from gptwo.perf.predict import predict_forward
from gptwo.perf.workload import Contender

# Of a GPU that is not here: the slowest host link in use, PCIe 3.0 with 16 lanes, by its specification, and the share
# of it that large copies reach; what a start takes longer, by the paper (§7.1).
_HOST_LINK_BYTES_PER_S, _LINK_EFFICIENCY = 15.75e9, 0.8
PAPER_START_S = 0.3


def representative(rows: Sequence[dict[str, Any]], kind: str) -> Contender | None:
    """Who stands for a kind of device: the one that writes fastest, of those in fp32 where there are any.

    It must have been timed in forward passes, prompts and tokens; None where nobody was.
    """
    found = _token_seconds(rows, kind)
    return min(found, key=lambda one: (one.dtype != "fp32", found[one]), default=None)


def quickest(rows: Sequence[dict[str, Any]], kind: str) -> Contender | None:
    """The one that writes fastest in whatever dtype, where that is another than the ``representative``."""
    found = _token_seconds(rows, kind)
    one = min(found, key=lambda one: found[one], default=None)
    return None if one == representative(rows, kind) else one


def _token_seconds(rows: Sequence[dict[str, Any]], kind: str) -> dict[Contender, float]:
    """Of those that were timed in everything, the least median of a token."""
    own = [row for row in _plain(rows) if row["device"].startswith(kind)]
    found: dict[Contender, float] = {}
    for row in own:
        if row["kind"] == "decode":
            one = Contender(row["device"], row["engine"], row["dtype"])
            found[one] = min(found.get(one, float("inf")), row["seconds"]["median"])
    return {
        one: seconds
        for one, seconds in found.items()
        if {"forward", "prefill", "decode"} <= {row["kind"] for row in own if is_of(row, one)}
    }


def measured_side(
    one: Contender, rows: Sequence[dict[str, Any]], starts: Sequence[dict[str, Any]], name: str
) -> Side:
    """A contender that was timed; between the shapes that were, seconds are interpolated over the tokens of a pass."""
    own = [row for row in _plain(rows) if is_of(row, one)]
    forward = _Curve({row["batch"] * row["tokens"]: row for row in own if row["kind"] == "forward"})
    prefill = _Curve({row["tokens"]: row for row in own if row["kind"] == "prefill"})
    depths = {row["past"]: row for row in own if row["kind"] == "decode"}
    places = sorted(depths)
    tokens = [depths[place]["seconds"]["median"] for place in places]
    start = next((_ready_s(entry) for entry in starts if is_of(entry, one)), 0.0)
    return Side(
        device=one.device,
        label=f"{name}, {one.engine} {one.dtype}",
        measured=True,
        start_s=start,
        forward=lambda batch, length: forward(batch * length),
        pass_tokens=(forward.first, forward.last),
        prefill=prefill,
        token=lambda past: float(np.interp(past, places, tokens)),
        basis=(
            "medians of the cases; between them, straight lines over tokens (logarithms of both for passes and "
            "prompts), and no pass beyond them",
        ),
    )


def predicted_side(config: GPT2Config, known: Machine, starts: Sequence[dict[str, Any]], cpu: Side) -> Side:
    """A GPU that is not here, by its data sheet: torch in fp32, copies between host and GPU included."""
    ceilings = known.ceilings(training=False)
    link = _HOST_LINK_BYTES_PER_S * _LINK_EFFICIENCY
    weights_s = weight_bytes(config) / link
    on_torch = [_ready_s(entry) for entry in starts if entry["engine"] == "torch"]
    begun = min(on_torch, default=cpu.start_s)

    def copies(batch: int, tokens: int) -> float:
        # Ids there, logits of the last token back.
        return 2 * ceilings.dispatch_s + batch * (8 * tokens + 4 * config.vocab_size) / link

    def pass_s(kind: Any, batch: int, tokens: int, past: int) -> float:
        found = predict_forward(
            config, ceilings, kind=kind, batch=batch, tokens=tokens, past=past, engine="torch", dtype="fp32"
        )
        return found.seconds + copies(batch, tokens)

    return Side(
        device=known.name,
        label=f"{known.title}, torch fp32",
        measured=False,
        start_s=begun + PAPER_START_S + weights_s,
        forward=lambda batch, tokens: (
            forward_seconds(config, ceilings, batch=batch, tokens=tokens, engine="torch", dtype="fp32")
            + copies(batch, tokens)
        ),
        prefill=lambda tokens: pass_s("prefill", 1, tokens, 0),
        token=lambda past: pass_s("decode", 1, 1, past),
        basis=(
            f"a prediction, not measured: {known.title} by {known.source}",
            f"of its peaks, what programs reach: {known.efficiency.source}",
            f"start: torch's on this CPU, {PAPER_START_S} s more (the paper, §7.1), and the weights over PCIe 3.0 x16 "
            f"at {_LINK_EFFICIENCY:.0%} of its specification, which copies of ids and logits have, too",
        ),
        copy_s=weights_s,
    )


def _ready_s(entry: dict[str, Any]) -> float:
    """From the shell to a model that is ready: the first token's time belongs to what is written."""
    return float(sum(step["summary"]["median"] for step in entry["steps"] if step["name"] != "first token"))


def _plain(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was measured without text, and but for forward passes of one sequence at a time."""
    return [
        row
        for row in rows
        if row["measured"] and not row["with_text"] and (row["batch"] == 1 or row["kind"] == "forward")
    ]


def is_of(entry: dict[str, Any], one: Contender) -> bool:
    """Whether a case or a start of the record is this contender's."""
    return (entry["device"], entry["engine"], entry["dtype"]) == tuple(one)


class _Curve:
    """Seconds over tokens, straight between the measured points on logarithms of both; beyond them, as at the last."""

    def __init__(self, points: dict[int, dict[str, Any]]) -> None:
        self._tokens = sorted(points)
        self._seconds = [points[tokens]["seconds"]["median"] for tokens in self._tokens]

    @property
    def first(self) -> int:
        """Tokens of the shortest that was measured."""
        return self._tokens[0]

    @property
    def last(self) -> int:
        """Tokens of the longest."""
        return self._tokens[-1]

    def __call__(self, tokens: int) -> float:
        return float(np.exp(np.interp(np.log(tokens), np.log(self._tokens), np.log(self._seconds))))
