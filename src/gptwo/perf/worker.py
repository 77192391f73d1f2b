"""Answers one request: JSON on standard input and output. ``python -m gptwo.perf.worker``; see ``process.ask``.

A request is {"what": …, and the arguments of what answers it}:

    forward, prefill, decode    a method of ``cases.Bench``; what is not the method's makes the ``Bench``
    several                     ``requests``: one after another in this process, each with a peak of memory of its own
    a name of ``_FUNCTIONS``    that function

The answer is {"result": …}, or {"error": the class of a user's mistake, "message": …}.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
from typing import Any

from gptwo.base.errors import GptwoError
from gptwo.base.memory import forget_peak

# What of a request for these belongs to the method; the rest is the engine's.
_OF_METHOD = ("tokens", "past", "with_text")

_FUNCTIONS = {
    "agreement": "agreement.agreement",
    "ceilings": "ceilings.measure_ceilings",
    "energy": "energy.measure_energy",
    "environment": "environment.environment",
    "init": "initialisation.init",
    "process": "process_memory.own_bytes",
    "random_model": "random_model.write_random_model",
    "train": "training_case.train",
}


def answer(what: str, **arguments: Any) -> Any:
    """The result of a request. Imports only what it needs: an import is among what is measured."""
    if what == "several":
        return [_afresh(**request) for request in arguments["requests"]]
    if what in ("forward", "prefill", "decode"):
        from gptwo.perf.cases import Bench

        of_method = {name: arguments.pop(name) for name in _OF_METHOD if name in arguments}
        return getattr(Bench(**arguments), what)(**of_method)
    if what not in _FUNCTIONS:
        raise ValueError(f"there is no measurement {what!r}")
    module, _, name = _FUNCTIONS[what].rpartition(".")
    result = getattr(importlib.import_module(f"gptwo.perf.{module}"), name)(**arguments)
    return result.to_json() if hasattr(result, "to_json") else result


def _afresh(**request: Any) -> Any:
    gc.collect()
    forget_peak()
    return answer(**request)


def main() -> None:
    """Answer; whatever libraries print goes to standard error."""
    reply_to = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(0, encoding="utf-8") as given:
        request = json.load(given)
    try:
        reply: dict[str, Any] = {"result": answer(**request)}
    except GptwoError as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    with os.fdopen(reply_to, "w", encoding="utf-8") as out:
        out.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
