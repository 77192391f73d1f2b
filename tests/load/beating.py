"""``gptwo`` with a heartbeat in its event loop: how late it comes is how long the loop was kept from its work.

    GPTWO_BEATS=FILE python tests/load/beating.py serve MODEL …

Once the loop ends, FILE has a JSON list of [seconds of time.monotonic(), lateness in seconds], of every beat that was
late by more than a millisecond. The lateness holds all reasons: a callback that took long, Python's lock held by
another thread, and a machine without a free core.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from gptwo.cli import main

PERIOD_S = 0.005
LATE_S = 0.001
late: list[tuple[float, float]] = []


def beat(loop: asyncio.AbstractEventLoop, due: float) -> None:
    now = loop.time()
    if now - due > LATE_S:
        late.append((now, now - due))
    loop.call_at(now + PERIOD_S, beat, loop, now + PERIOD_S)


def watch() -> None:
    run_forever = asyncio.BaseEventLoop.run_forever

    def beating(self: Any) -> None:
        self.call_soon(beat, self, self.time())
        run_forever(self)

    asyncio.BaseEventLoop.run_forever = beating  # type: ignore[method-assign]


if __name__ == "__main__":
    watch()
    code = main()
    Path(os.environ["GPTWO_BEATS"]).write_text(json.dumps(late), encoding="utf-8")
    sys.exit(code)
