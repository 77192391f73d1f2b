"""What a prefix that was read before saves: the time to the first token of a prompt, cold and warm."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from serving.client import Answer, stream
from serving.load import Pages

FAMILIES = 5


class Family(NamedTuple):
    """Two prompts that begin alike for ``shared`` tokens, each with an end of its own, and such an end alone."""

    cold: str
    warm: str
    own: str
    shared: int


def families(pages: Pages, count: int, *, context: int) -> list[Family]:
    """So many, of 480 shared tokens and ends of 32; in proportion where the context is not 1,024 tokens."""
    end = context // 32
    shared = 15 * end
    found: list[Family] = []
    while len(found) < count:
        beginning, first, second, own = (pages.take(n) for n in (shared, end, end, end))
        if pages.joins(beginning, first) and pages.joins(beginning, second):
            found.append(Family(beginning + first, beginning + second, own, shared))
    return found


async def measure(
    port: int, asked: list[Family], body_of: Callable[[str, int], Mapping[str, Any]]
) -> dict[str, float]:
    """Medians over the families, one request at a time:

    cold_s, warm_s   time to the first token of the first prompt, and then of the second
    own_s            of a prompt as long as what is not shared: no cache can save that
    cached_share     of the second prompt's shared tokens: those that the server says it had
    saved_share      (cold - warm) / (cold - own): of the time that the shared prefix takes
    """
    seconds: dict[str, list[float]] = {"cold_s": [], "warm_s": [], "own_s": []}
    cached = []
    for family in asked:
        for key, prompt in zip(seconds, family[:3], strict=True):
            answer = Answer(sent=time.perf_counter(), wanted=1)
            await stream(port, body_of(prompt, 1), answer)
            if answer.first is None:
                raise RuntimeError("no token came after a prompt of the prefix cache's measurement")
            seconds[key].append(answer.first - answer.sent)
            if key == "warm_s":
                cached.append(answer.cached_tokens / family.shared)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    spared = medians["cold_s"] - medians["own_s"]
    return {
        **medians,
        "cached_share": statistics.median(cached),
        "saved_share": (medians["cold_s"] - medians["warm_s"]) / spared,
    }
