"""What an evaluation found, in one form for every task."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gptwo.base.errors import DivergedError

# (done, total): predicted tokens of a text, or continuations of a task.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What was measured, by which protocol, over how much. ``docs/guides/evaluate.md`` defines the names in it.

    task      "loss" | "lambada" | "hellaswag" | "multiple-choice"
    protocol  the name of the rule that the figures follow
    rule      that rule in words, with this model's numbers
    metrics   the figures, by name
    counts    how much was evaluated, by name
    """

    task: str
    protocol: str
    rule: str
    metrics: dict[str, float]
    counts: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The object that ``gptwo eval --json`` prints, less what the command itself knows."""
        return dataclasses.asdict(self)


def perplexity(nats: float) -> float:
    """e to the mean of -log p. Raises ``DivergedError`` where that is more than a number holds."""
    try:
        return math.exp(nats)
    except OverflowError:
        raise DivergedError(
            f"a mean of {nats:.1f} nats is beyond any perplexity; the model is damaged"
        ) from None
