"""Answers one request: JSON on standard input and output. ``python -m gptwo.perf.worker``; see ``ask``."""

from __future__ import annotations

import json
import os
from typing import Any

from gptwo.base.errors import GptwoError


def answer(request: dict[str, Any]) -> Any:
    """The result of the request's ``what``, with its other fields as arguments."""
    from gptwo.perf.ceilings import measure_ceilings

    arguments = dict(request)
    what = arguments.pop("what")
    if what == "ceilings":
        return measure_ceilings(**arguments).to_json()
    raise ValueError(f"there is no measurement {what!r}")


def main() -> None:
    """Answer; whatever libraries print goes to standard error."""
    reply_to = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(0, encoding="utf-8") as given:
        request = json.load(given)
    try:
        reply: dict[str, Any] = {"result": answer(request)}
    except GptwoError as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    with os.fdopen(reply_to, "w", encoding="utf-8") as out:
        out.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
