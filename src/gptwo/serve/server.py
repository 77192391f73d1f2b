"""From an open socket to the last answer: loading, serving, and the end.

A request meets, in this order: its connection (``connections.py``: deadlines, places, size of headers), the log
(``logs.py``), CORS where it is asked for (``service.py``), and in ``app.py`` its id, the key (``keys.py``), the limit
of its body (``limits.py``) and a route, which gives a task to the writer (``writer.py``): its thread runs the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, cast

import uvicorn

from gptwo.serve.connections import Connections
from gptwo.serve.logs import RequestLog
from gptwo.serve.offload import in_daemon_thread

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gptwo.serve.logs import Log
    from gptwo.serve.metrics import Metrics
    from gptwo.serve.settings import ServeSettings

# After the grace time: for the last bytes to go out.
_LAST_BYTES_S = 2


class Service(Protocol):
    """What is served: ``service.ModelService``."""

    @property
    def app(self) -> ASGIApp:
        """The routes. It answers from the beginning, with 503 for what needs more than it has, and after ``close``."""

    def build(self) -> None:
        """What takes time, in a thread."""

    def open(self) -> None:
        """In the event loop, when it is built: let requests in."""

    async def close(self, grace_s: float) -> None:
        """Let no more in; what is running may finish within that time, and is ended then."""


class Server:
    """One service behind one socket. The socket answers at once."""

    def __init__(self, settings: ServeSettings, *, log: Log, metrics: Metrics) -> None:
        self._settings = settings
        self._log = log
        self._metrics = metrics
        self.connections = Connections(settings, metrics.on_drop)
        metrics.connections.set_function(lambda: len(self.connections))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Begin to end, from any thread: what the first SIGTERM or SIGINT does. Nothing before ``run`` and after it."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def run(
        self, listener: socket.socket, service: Service, *, ready: Callable[[], None] = lambda: None
    ) -> None:
        """Serve until ``stop``. What ``service.build`` raises this raises too, once the socket is closed.

        ``ready`` is called when the service is open.
        """
        self._loop = asyncio.get_running_loop()
        app = RequestLog(service.app, self._settings, self._log, self._metrics)
        door = _Door(self._config(app))
        listening = asyncio.create_task(door.serve(sockets=[listener]))
        watching = asyncio.create_task(self.connections.watch())
        stopping = asyncio.create_task(self._stop.wait())
        with _first_signal(self.stop), self._log.records():
            try:
                building = in_daemon_thread(service.build, "gptwo-load")
                await _first_of(building, stopping, listening)
                if building.done():
                    building.result()
                    service.open()
                    ready()
                    await _first_of(stopping, listening)
                    self._log.line("closing", grace_s=self._settings.grace_s)
                    await service.close(self._settings.grace_s)
            finally:
                door.should_exit = True
                await listening
                watching.cancel()
                stopping.cancel()

    def _config(self, app: ASGIApp) -> uvicorn.Config:
        return uvicorn.Config(
            cast(Any, app),
            # uvicorn calls it as it would the class.
            http=cast("type[asyncio.Protocol]", self.connections.protocol),
            loop="asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            # A header that says which client it is can be forged by whoever reaches the socket.
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=math.ceil(self._settings.idle_time_s),
            timeout_graceful_shutdown=_LAST_BYTES_S,
        )


class _Door(uvicorn.Server):
    """uvicorn without its handlers of signals: it would close the socket at once, and end the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _first_signal(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call ``stop``; a second one ends the process at once, as if nobody had handled it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        stop()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _first_of(*events: asyncio.Future[Any]) -> None:
    await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
