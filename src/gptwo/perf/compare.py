"""Two records of ``gptwo bench`` side by side: what became slower for certain, and what may be chance."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from gptwo.base.errors import ConfigError
from gptwo.perf.ceilings import Ceilings, drift, highest, too_far
from gptwo.perf.statistics import LEAST_PROCESSES, Summary, separated
from gptwo.perf.summary import duration

# What makes two machines two, of the environment's keys.
_MACHINE = ("processor", "cores", "threads", "memory_bytes", "torch", "python")

Verdict = Literal["slower", "faster", "no difference", "too few processes"]


@dataclass(frozen=True)
class Compared:
    """One figure of both records: medians in seconds, after / before, and whether their intervals are apart."""

    id: str
    before_s: float
    after_s: float
    ratio: float
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """Every case that both records measured, and what to know before believing it."""

    rows: tuple[Compared, ...]
    notes: tuple[str, ...]

    @property
    def slower(self) -> tuple[Compared, ...]:
        """What is slower and outside both intervals: the reason to fail."""
        return tuple(row for row in self.rows if row.verdict == "slower")

    @property
    def undecided(self) -> tuple[Compared, ...]:
        """What too few processes say nothing of."""
        return tuple(row for row in self.rows if row.verdict == "too few processes")

    def to_json(self) -> dict[str, Any]:
        """As ``gptwo bench compare --json`` writes it."""
        return {
            "slower": len(self.slower),
            "undecided": len(self.undecided),
            "notes": list(self.notes),
            "cases": [asdict(row) for row in self.rows],
        }

    def text(self) -> str:
        """A line for each case, the notes, and the verdict."""
        lines = [f"{'case':54} {'before':>10} {'after':>10} {'ratio':>6}"]
        for row in self.rows:
            times = f"{duration(row.before_s):>10} {duration(row.after_s):>10} {row.ratio:6.2f}"
            lines.append(f"{row.id:54} {times}  {row.verdict}")
        lines += [f"note: {note}" for note in self.notes]
        total = len(self.rows)
        lines.append(f"{len(self.slower)} of {total} slower outside the 95% intervals")
        if self.undecided:
            lines[-1] += f"; of {len(self.undecided)} there are too few processes to tell"
            lines.append(
                f"it takes {LEAST_PROCESSES} processes in each record, which gptwo bench has without --quick: those "
                "of two equal runs, two of each, lie apart by chance in a third of all cases, three in 10%"
            )
        return "\n".join(lines)


def compare(before: dict[str, Any], after: dict[str, Any]) -> Comparison:
    """``after`` held against ``before``, case by case.

    A case is slower or faster only where the two 95% intervals of the median do not touch; of fewer than
    ``LEAST_PROCESSES`` processes in either that cannot be told, however many samples they have. What both have of
    starts is compared like a case. Raises ``ConfigError`` for records of different models or of different cases: those
    are not comparable.
    """
    for key in ("name", "config", "weights"):
        if before["model"][key] != after["model"][key]:
            raise ConfigError(
                f"the records are of different models: {key} is {before['model'][key]} and {after['model'][key]}; "
                "expected the same model in both"
            )
    first, second = _measured(before), _measured(after)
    if only := sorted(first.keys() ^ second.keys()):
        where = "first" if only[0] in first else "second"
        raise ConfigError(
            f"the records are of different cases: {only[0]} is in the {where} alone, and {len(only) - 1} more in one; "
            "run gptwo bench with the same flags for both"
        )
    if not first:
        raise ConfigError("the records have no measured case; expected some: see their left_out")
    starts = _starts(before), _starts(after)
    pairs = {
        **{id_: (first[id_], second[id_]) for id_ in first},
        **{id_: (starts[0][id_], starts[1][id_]) for id_ in starts[0] if id_ in starts[1]},
    }
    rows = tuple(_compared(id_, *pair) for id_, pair in pairs.items())
    return Comparison(rows, tuple(_notes(before, after)))


class _Figure(NamedTuple):
    """What was measured, and in how many processes."""

    summary: Summary
    processes: int


def _measured(record: dict[str, Any]) -> dict[str, _Figure]:
    return {
        case["id"]: _Figure(Summary.from_json(case["seconds"]), len(case["rounds"]))
        for case in record["cases"]
        if case["measured"]
    }


def _starts(record: dict[str, Any]) -> dict[str, _Figure]:
    """Of which each sample is of a process of its own."""
    totals = {
        f"start/{entry['device']}/{entry['engine']}/{entry['dtype']}": Summary.from_json(entry["total"])
        for entry in record["initialisation"]
    }
    return {id_: _Figure(total, total.n) for id_, total in totals.items()}


def _compared(id_: str, first: _Figure, second: _Figure) -> Compared:
    before, after = first.summary, second.summary
    verdict: Verdict = "no difference"
    if min(first.processes, second.processes) < LEAST_PROCESSES:
        verdict = "too few processes"
    elif separated(before, after):
        verdict = "slower" if after.median > before.median else "faster"
    return Compared(id_, before.median, after.median, after.median / before.median, verdict)


def _notes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    notes = []
    one, other = before["environment"], after["environment"]
    for key in _MACHINE:
        if one.get(key) != other.get(key):
            notes.append(f"the machines differ: {key} is {one.get(key)} and {other.get(key)}")
    gpus = _gpus(one), _gpus(other)
    if gpus[0] != gpus[1]:
        notes.append(f"the machines differ: gpus are {gpus[0] or 'none'} and {gpus[1] or 'none'}")
    for entry in before["ceilings"]:
        same = next((later for later in after["ceilings"] if later["device"] == entry["device"]), None)
        moved = drift(_best(entry), _best(same)) if same else {}
        if far := too_far(moved):
            notes.append(f"the ceilings of {entry['device']} differ: {', '.join(far)}")
    for which, record in (("first", before), ("second", after)):
        notes += [
            f"the {which} record is not of a quiet machine: {why}" for why in record["quiet"]["reasons"]
        ]
    return notes


def _best(entry: dict[str, Any]) -> Ceilings:
    """The higher ceilings of both times, of an entry of the record's ``ceilings``."""
    before = Ceilings.from_json(entry["before"])
    return highest(before, Ceilings.from_json(entry["after"])) if entry["after"] else before


def _gpus(environment: dict[str, Any]) -> str:
    """The GPUs by their names alone: clocks and temperature are never the same twice.

    Records before 2026-11-30 have ``gpu`` alone, the first of them.
    """
    first = environment.get("gpu")
    found = environment.get("gpus", {"cuda:0": first} if first else {})
    return ", ".join(f"{device} {gpu['name']}" for device, gpu in found.items())
