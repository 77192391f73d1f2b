"""Workers that answer at once: what ``perf.bench`` is told when nothing is measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gptwo.perf.ceilings import Ceilings
from gptwo.perf.workload import REFERENCE, Contender

CEILINGS = Ceilings(
    device="cpu",
    name="A processor",
    threads=2,
    matmul_flops_per_s={"fp32": 1e11, "int8": 4e11},
    model_matmul_flops_per_s={"mlp.up": {"fp32": 9e10, "int8": 3e11}},
    read_bytes_per_s=2e10,
    copy_bytes_per_s=1e10,
    dispatch_s=1e-6,
    launch_s=2e-6,
    transfers=None,
    process_bytes={"native": 60_000_000, "torch": 300_000_000, "train": 400_000_000},
    measured_at="2026-11-24T00:00:00+00:00",
)
_LINE = {"latency_s": 1e-5, "bytes_per_s": 1e10, "samples": [[4096, 1e-5], [1 << 26, 7e-3]]}
ON_GPU = replace(
    CEILINGS,
    device="cuda:0",
    name="A GPU",
    matmul_flops_per_s={"fp32": 1e13, "bf16": 1e14},
    read_bytes_per_s=1e12,
    transfers={way: {"pageable": _LINE, "pinned": _LINE} for way in ("host_to_device", "device_to_host")},
)


class Answers:
    """Answers every question, and keeps it. ``red`` are contenders that do not agree, ``fails`` kinds that raise."""

    def __init__(self, *, red: tuple[str, ...] = (), fails: tuple[str, ...] = (), drift: float = 0.0) -> None:
        self.questions: list[dict[str, Any]] = []
        self._red, self._fails, self._drift = red, fails, drift
        self._measured_ceilings = 0

    def __call__(self, question: dict[str, Any]) -> Any:
        self.questions.append(question)
        what = question["what"]
        if what in self._fails:
            raise RuntimeError(f"no {what}\nhere")
        return getattr(self, f"_{what}")(question)

    def requests(self) -> list[dict[str, Any]]:
        """Every case that was asked, in order."""
        return [request for question in self.questions for request in question.get("requests", [])]

    def _random_model(self, question: dict[str, Any]) -> None:
        raise AssertionError("a folder was given")

    def _environment(self, question: dict[str, Any]) -> dict[str, Any]:
        threads = question["threads"]
        return {
            "commit": None,
            "processor": "A processor",
            "cores": 2,
            "threads": threads,
            "gpu": None,
            "gpus": {},
        }

    def _ceilings(self, question: dict[str, Any]) -> dict[str, Any]:
        factor = 1 + self._drift * self._measured_ceilings
        self._measured_ceilings += 1
        known = CEILINGS if question["device"] == "cpu" else ON_GPU
        return replace(known, read_bytes_per_s=factor * known.read_bytes_per_s).to_json()

    def _agreement(self, question: dict[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for contender in question["contenders"]:
            name = str(Contender(*contender))
            ok = name not in self._red
            row = {"a": REFERENCE, "b": name, "what": "decode", "largest": 1e-6 if ok else None}
            limits = {"allowed": 1e-4, "rms": 1e-7 if ok else None, "allowed_rms": 1e-5}
            rows.append({**row, **limits, "ok": ok, "why": "sums in another order"})
        return rows

    def _init(self, question: dict[str, Any]) -> dict[str, Any]:
        return {
            "steps": [
                {"name": "python", "seconds": 0.0, "counts": True, "note": None},
                {"name": "import", "seconds": 0.1, "counts": True, "note": None},
                {"name": "read cold", "seconds": None, "counts": False, "note": "no way to empty the cache"},
                {"name": "first token", "seconds": 0.2, "counts": True, "note": None},
            ],
            "total_s": 0.3,
            "peak_memory_bytes": 10**8,
        }

    def _energy(self, question: dict[str, Any]) -> dict[str, Any]:
        return {"why": "no counters"}

    def _several(self, question: dict[str, Any]) -> list[dict[str, Any]]:
        if any(request["what"] in self._fails for request in question["requests"]):
            raise RuntimeError("too little memory")
        return [self._case(request) for request in question["requests"]]

    @staticmethod
    def _case(request: dict[str, Any]) -> dict[str, Any]:
        # A GPU takes a twentieth, and 8 bits a half.
        factor = (0.05 if request["device"] != "cpu" else 1.0) * (0.5 if request["dtype"] == "int8" else 1.0)
        seconds = [
            factor * 0.01 * request["batch"] * (1 + 0.01 * number) for number in range(request["samples"])
        ]
        answer: dict[str, Any] = {"seconds": seconds, "peak_memory_bytes": 2 * 10**8}
        if request["what"] == "decode":
            answer["first_token_s"] = 0.05 if request["past"] else None
        if request["what"] == "train":
            answer["split"] = {
                part: [s / 4 for s in seconds] for part in ("data", "forward", "backward", "optimizer")
            }
        return answer
