"""What repeated measurements say: a median and the interval that it lies in; whether two of them differ. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Self

import numpy as np

# Resamples of the bootstrap, and the seed of their draws: the same samples have the same interval.
_RESAMPLES, _SEED = 2000, 0
# Numbers drawn at a time.
_AT_ONCE = 1 << 20
# The tail of a p99 has one sample in a hundred: of fewer it would be the greatest of a handful.
LEAST_FOR_P99 = 1000
# Of two equal runs of n processes, all of one lie above all of the other by chance with 2 n!² / (2n)!: a third of the
# times for two, 10% for three, 2.9% for four. Samples of one process are not independent, and count for nothing.
LEAST_PROCESSES = 4
# The least and the greatest of n samples hold the median between them with 1 - 2^(1 - n): 94% of five, 97% of six.
LEAST_FOR_INTERVAL = 6


@dataclass(frozen=True, kw_only=True)
class Summary:
    """``low`` to ``high`` is the bootstrap 95% interval of the median, of fewer than six samples their range.

    It is drawn by processes (``summarise_rounds``). ``p99`` is None below 1,000 samples.
    """

    median: float
    low: float
    high: float
    n: int
    p50: float
    p95: float
    p99: float | None
    samples: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {**asdict(self), "samples": list(self.samples)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """What ``to_json`` gave; keys that a later version added are left out."""
        known = {each.name: fields[each.name] for each in dataclass_fields(cls) if each.name in fields}
        return cls(**{**known, "samples": tuple(fields["samples"])})


def summarise(samples: Sequence[float]) -> Summary:
    """The summary of at least one sample, each of a process of its own."""
    return summarise_rounds([[sample] for sample in samples])


def summarise_rounds(rounds: Sequence[Sequence[float]]) -> Summary:
    """The summary of the samples of each of several processes, as many of each.

    A process may be slow as a whole: its samples are no independent ones. The bootstrap draws processes, and from each
    that is drawn its samples, so that the interval has in it how far processes are apart. Percentiles between two
    samples are interpolated. ``ValueError`` without samples, and where processes have different numbers of them.
    """
    if not sum(map(len, rounds)):
        raise ValueError("no samples; expected at least one")
    if len(set(map(len, rounds))) > 1:
        raise ValueError(f"processes have {[*map(len, rounds)]} samples; expected as many of each")
    of_rounds = np.asarray(rounds, dtype=np.float64)
    values = of_rounds.ravel()
    if len(values) < LEAST_FOR_INTERVAL:
        low, high = values.min(), values.max()
    else:
        low, high = np.percentile(_medians(of_rounds), (2.5, 97.5))
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return Summary(
        median=float(np.median(values)),
        low=float(low),
        high=float(high),
        n=len(values),
        p50=float(p50),
        p95=float(p95),
        p99=float(p99) if len(values) >= LEAST_FOR_P99 else None,
        samples=tuple(values.tolist()),
    )


def _medians(of_rounds: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Medians of resamples of [rounds, samples]: rounds drawn with replacement, and from each so many samples."""
    generator = np.random.default_rng(_SEED)
    rounds, samples = of_rounds.shape
    at_once = max(1, _AT_ONCE // of_rounds.size)
    medians = []
    for done in range(0, _RESAMPLES, at_once):
        count = min(at_once, _RESAMPLES - done)
        drawn = generator.integers(rounds, size=(count, rounds, 1))
        of_drawn = generator.integers(samples, size=(count, rounds, samples))
        medians.append(np.median(of_rounds[drawn, of_drawn], axis=(1, 2)))
    return np.concatenate(medians)


def separated(a: Summary, b: Summary) -> bool:
    """Whether the intervals do not overlap. Of fewer than ``LEAST_PROCESSES`` that says little: the caller counts."""
    return a.high < b.low or b.high < a.low
