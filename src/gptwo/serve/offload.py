"""Work on a client's text, where it does not hold up the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

# Up to here a hop to a thread and back costs more than the work.
INLINE_BYTES = 8192


async def off_loop(work: Callable[[], Result], size: int) -> Result:
    """``work()``, in a thread when ``size``, bytes or so that it works on, is more than little."""
    return work() if size <= INLINE_BYTES else await asyncio.to_thread(work)


def in_daemon_thread(work: Callable[[], Result], name: str) -> asyncio.Future[Result]:
    """``work()`` in a thread of its own that the end of the process does not wait for.

    Not asyncio's own threads: Python waits for those, and a server that is told to end should not first read a large
    model to its last byte, or finish what nobody will see.
    """
    done: Future[Result] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return asyncio.wrap_future(done)


def encode(value: object) -> bytes:
    """``value`` as compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def encode_in_parts(fields: Mapping[str, Any], **lists: Iterable[list[Any]]) -> bytes:
    """``{**fields, **lists}`` as JSON, where the lists may be long, and come in parts.

    A part is encoded alone: the encoder keeps Python's lock as long as it works on a value, and the event loop waits.
    """
    parts = [encode(fields)[:-1]]
    for name, pieces in lists.items():
        items = b",".join(encode(piece)[1:-1] for piece in pieces if piece)
        parts.append(b"," + encode(name) + b":[" + items + b"]")
    return b"".join([*parts, b"}"])


def in_parts(items: list[Result], size: int = 4096) -> Iterator[list[Result]]:
    """The list in pieces of ``size`` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
