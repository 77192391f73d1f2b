"""Answers one request: JSON on standard input and output. ``python -m gptwo.perf.worker``; see ``process.ask``.

A request is {"what": …, and the arguments of what answers it}:

    ceilings                 ceilings.measure_ceilings
    init                     initialisation.init
    forward, prefill, decode cases.Bench, and its method of that name
    train                    training_case.train
    process                  process_memory.own_bytes

The answer is {"result": …}, or {"error": the class of a user's mistake, "message": …}.
"""

from __future__ import annotations

import json
import os
from typing import Any

from gptwo.base.errors import GptwoError

# What of a request for these belongs to the method; the rest is the engine's.
_OF_METHOD = ("tokens", "past", "with_text")


def answer(what: str, **arguments: Any) -> Any:
    """The result of a request. Imports only what it needs: an import is among what is measured."""
    if what == "init":
        from gptwo.perf.initialisation import init

        return init(**arguments)
    if what in ("forward", "prefill", "decode"):
        from gptwo.perf.cases import Bench

        of_method = {name: arguments.pop(name) for name in _OF_METHOD if name in arguments}
        return getattr(Bench(**arguments), what)(**of_method)
    if what == "train":
        from gptwo.perf.training_case import train

        return train(**arguments)
    if what == "ceilings":
        from gptwo.perf.ceilings import measure_ceilings

        return measure_ceilings(**arguments).to_json()
    if what == "process":
        from gptwo.perf.process_memory import own_bytes

        return own_bytes(**arguments)
    raise ValueError(f"there is no measurement {what!r}")


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
