"""Questions that are answered in a process of their own: nothing that ran before changes what it measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from gptwo.base import errors
from gptwo.base.errors import GptwoError


def ask(request: dict[str, Any]) -> Any:
    """What ``python -m gptwo.perf.worker`` answers to the request.

    A ``GptwoError`` of the worker's is raised here; another end of it is a ``RuntimeError`` with its last words.
    """
    # As the command ``gptwo`` sets it: threads that wait spinning take the cores from others.
    environment = {"GOMP_SPINCOUNT": "1000", **os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "gptwo.perf.worker"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"measuring {request.get('what')!r} failed: {last}")
    reply = json.loads(done.stdout.splitlines()[-1])
    if "error" in reply:
        kind = getattr(errors, reply["error"], GptwoError)
        raise kind(reply["message"])
    return reply["result"]
