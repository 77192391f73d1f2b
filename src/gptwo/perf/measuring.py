"""The questions of ``gptwo bench``, each asked of a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptwo.base.cores import usable_cores
from gptwo.base.errors import GptwoError
from gptwo.config import GPT2Config
from gptwo.perf.ceilings import Ceilings
from gptwo.perf.figures import products_of
from gptwo.perf.statistics import summarise
from gptwo.perf.workload import FULL, QUICK, REFERENCE, Case, Contender, groups, not_in_quick

# How long a quick run may take: what the machine is too slow for is left out, where a round of it was taken before. Of
# that so much is kept back for what ends it: its page, and what questions take more than the last time.
QUICK_S, _SPARE_S = 90.0, 5.0
# Why something was not timed: the user ended the run before.
STOPPED = "the run was stopped"

Ask = Callable[[dict[str, Any]], Any]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure: ``model`` is a size (random weights), a folder or a run; no dtypes means each device's own.

    ``gpu`` is the known GPU (``machines``) whose prediction stands where no GPU is measured.
    """

    model: str
    devices: tuple[str, ...] = ("auto",)
    engines: tuple[str, ...] = ("native", "torch")
    dtypes: tuple[str, ...] = ()
    threads: int | None = None
    quick: bool = False
    gpu: str = "t4"


class Measuring:
    """The questions of a run, each asked of a process of its own, one after another.

    ``left_out`` grows by what is red and what fails; ``contenders`` loses what is red. A ``KeyboardInterrupt`` while
    anything is timed makes it ``stopped``: what was found stands, nothing more is asked, and ``left_out`` says so.
    """

    def __init__(
        self, settings: Settings, folder: Path, contenders: list[Contender], ask: Ask, progress: Progress
    ) -> None:
        self._settings, self._folder, self.contenders = settings, folder, contenders
        self._ask, self._progress = ask, progress
        self._devices = list(dict.fromkeys(one.device for one in contenders))
        # One number for all: else each engine has a default of its own, which OMP_NUM_THREADS changes for some.
        self._threads = usable_cores() if settings.threads is None else settings.threads
        self._effort = QUICK if settings.quick else FULL
        # Of what is timed: a quick run has no time for the products of other dtypes.
        self._products = products_of(one.dtype for one in contenders)
        self._began, self._ceilings_s = time.perf_counter(), 0.0
        self._asked = self._total = 0
        self.left_out: list[dict[str, str]] = []
        self.stopped = False

    def ask(self, what: str, question: dict[str, Any]) -> Any:
        """The answer of a process of its own."""
        self._progress(self._asked, max(self._total, self._asked + 1), what)
        self._asked += 1
        return self._ask(question)

    def announce(self, config: GPT2Config) -> None:
        """Reckon how many questions there will be at most: what is red or fails is not asked again."""
        cases = sum(map(len, groups(config, self.contenders, quick=self._settings.quick)))
        timed = len(self.contenders) if self._settings.quick else cases
        for_each = self._effort.starts + (not self._settings.quick)  # its energy
        ceilings = 2 * len(self._devices)
        self._total = (
            self._asked + 2 + ceilings + len(self.contenders) * for_each + timed * self._effort.rounds
        )

    def environment(self) -> dict[str, Any]:
        """Of the machine and of each GPU that is measured."""
        found: dict[str, Any] = self.ask(
            "environment", {"what": "environment", "devices": self._devices, "threads": self._threads}
        )
        return found

    def ceilings_after(self) -> dict[str, Ceilings] | None:
        """``ceilings``, of a run that nobody stopped."""
        if not self.stopped:
            try:
                return self.ceilings()
            except KeyboardInterrupt:
                self.stopped = True
                self.left_out.append({"what": "the ceilings after everything else", "why": STOPPED})
        return None

    def ceilings(self) -> dict[str, Ceilings]:
        """Of every device, measured now."""
        began = time.perf_counter()
        question: dict[str, Any] = {
            "what": "ceilings",
            "threads": self._threads,
            "quick": self._settings.quick,
        }
        if self._settings.quick:
            question["dtypes"] = self._products
        found = {
            device: Ceilings.from_json(self.ask(f"ceilings of {device}", {**question, "device": device}))
            for device in self._devices
        }
        self._ceilings_s = time.perf_counter() - began
        return found

    def agreement(self, config: GPT2Config) -> list[dict[str, Any]]:
        """Its rows; a contender that is red is left out from here on."""
        cases = [
            case for group in groups(config, self.contenders, quick=self._settings.quick) for case in group
        ]
        rows: list[dict[str, Any]] = self.ask(
            "agreement",
            {
                "what": "agreement",
                "folder": str(self._folder),
                "contenders": [list(one) for one in self.contenders],
                "longest": max(case.past + case.tokens for case in cases),
                "batch": max(case.batch for case in cases),
                "training": next(([case.batch, case.tokens] for case in cases if case.kind == "train"), None),
                "threads": self._threads,
            },
        )
        why = _red(rows)
        self.left_out += [{"what": name, "why": reason} for name, reason in why.items()]
        self.contenders = [one for one in self.contenders if str(one) not in why]
        return rows

    def initialisation(self, one: Contender) -> dict[str, Any] | None:
        """Summaries of every step from the shell to the first token, over fresh processes; None where it failed."""
        found = [
            answer
            for _ in range(self._effort.starts)
            if (answer := self._tried(f"start of {one}", self._question("init", one, since=time.time())))
            is not None
        ]
        if not found:
            return None
        steps = [
            {
                "name": same[0]["name"],
                "summary": _summary([step["seconds"] for step in same if step["seconds"] is not None]),
                "note": same[0]["note"],
                "counts": same[0]["counts"],
            }
            for same in zip(*(answer["steps"] for answer in found), strict=True)
        ]
        return {
            **one._asdict(),
            "steps": [step for step in steps if step["counts"]],
            "beside": [step for step in steps if not step["counts"]],
            "total": _summary([answer["total_s"] for answer in found]),
            "peak_memory_bytes": max(answer["peak_memory_bytes"] for answer in found),
        }

    def timed(self, config: GPT2Config) -> dict[Case, list[dict[str, Any]]]:
        """The answers of all rounds for each case, in turn; of a case that failed there is none."""
        grouped = groups(config, self.contenders, quick=self._settings.quick)
        answers: dict[Case, list[dict[str, Any]]] = {case: [] for group in grouped for case in group}
        if self._settings.quick:
            self.left_out += not_in_quick(self.contenders)
        # A quick run has one process for all cases of a contender, a full one a process for each.
        turns = [list(answers)] if self._settings.quick else grouped
        for turn in turns:
            took: dict[Contender, float] = {}
            for number in range(self._effort.rounds):
                # Of what failed nothing more is asked.
                left = [case for case in turn if number == 0 or answers[case]]
                takers = list(dict.fromkeys(case.contender for case in left))
                if self._settings.quick and number:
                    takers = self._affordable(takers, took, number)
                for one in takers[:: -1 if number % 2 else 1]:
                    cases = [case for case in left if case.contender == one]
                    began = time.perf_counter()
                    requests = [self._case_question(case) for case in cases]
                    what = cases[0].id if len(cases) == 1 else f"round {number + 1} of {one}"
                    found = self._tried(what, {"what": "several", "requests": requests}) or []
                    for case, answer in zip(cases, found, strict=False):
                        answers[case].append(answer)
                    took[one] = time.perf_counter() - began
        return {case: found for case, found in answers.items() if found}

    def _affordable(
        self, takers: Sequence[Contender], took: Mapping[Contender, float], number: int
    ) -> list[Contender]:
        """Those that a quick run has time for once more, by what they took before: the longest are left out first."""
        if self.stopped:
            return []
        found = sorted(takers, key=took.__getitem__)
        left_s = QUICK_S - _SPARE_S - self._ceilings_s - (time.perf_counter() - self._began)
        while found and sum(took[one] for one in found) > left_s:
            one = found.pop()
            self.left_out.append(
                {
                    "what": f"round {number + 1} of {one}",
                    "why": f"--quick is to end within {QUICK_S:.0f} s, and round {number} took {took[one]:.0f} s",
                }
            )
        return [one for one in takers if one in found]

    def energy(self) -> dict[str, Any]:
        """Joules per token written, of every contender whose device has a counter; else why there is none.

        A quick run has no time for it: where there are counters it is a start and seconds of writing for each.
        """
        if self._settings.quick:
            return {"measured": False, "rows": [], "why": "--quick has no time for it"}
        rows, why = [], []
        for one in self.contenders:
            found = self._tried(f"energy of {one}", self._question("energy", one))
            if found is None or "why" in found:
                why += [found["why"]] if found else []
            else:
                rows.append(
                    {"case": str(one), **found, "joules_per_token": found["joules"] / found["tokens"]}
                )
        if self.stopped:
            why.append(STOPPED)
        return {"measured": bool(rows), "rows": rows, "why": "; ".join(dict.fromkeys(why)) or None}

    def _tried(self, what: str, question: dict[str, Any]) -> Any:
        """``ask``; of what fails (memory that is not there, a kernel that a device lacks) None, and a line says why."""
        if self.stopped:
            return None
        try:
            return self.ask(what, question)
        except KeyboardInterrupt:
            self.stopped = True
            self.left_out.append({"what": f"{what} and all that comes after it", "why": STOPPED})
            return None
        except (GptwoError, RuntimeError) as error:
            self.left_out.append({"what": what, "why": " ".join(str(error).split())})
            return None

    def _case_question(self, case: Case) -> dict[str, Any]:
        shape: dict[str, Any] = {"batch": case.batch, "samples": self._effort.samples(case)}
        if case.kind == "decode":
            shape["past"] = case.past
        else:
            shape["tokens"] = case.tokens
        if case.kind in ("prefill", "decode"):
            shape["with_text"] = case.with_text
        return self._question(case.kind, case.contender, **shape)

    def _question(self, what: str, one: Contender, **more: Any) -> dict[str, Any]:
        place = {"model": str(self._folder), **one._asdict(), "threads": self._threads}
        if what == "train":
            del place["engine"]
        return {"what": what, **place, **more}


def _summary(samples: list[float]) -> dict[str, Any] | None:
    return summarise(samples).to_json() if samples else None


def _red(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Of every contender that must not be timed, by its name, why."""
    return {
        row["b"]: f"its {row['what']} is off from the equations by {_too_much(row)} ({row['why']})"
        for row in rows
        if row["a"] == REFERENCE and not row["ok"]
    }


def _too_much(row: dict[str, Any]) -> str:
    if row["largest"] is None:
        return f"no finite number, allowed are {row['allowed']:g}"
    if row["largest"] > row["allowed"]:
        return f"{row['largest']:.2g}, allowed are {row['allowed']:g}"
    return f"{row['rms']:.2g} in the root of the mean square, allowed are {row['allowed_rms']:g}"
