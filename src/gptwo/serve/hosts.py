"""What keeps web pages away from a server that is meant for its own machine alone."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from gptwo.serve.errors import ApiError, RequestIds

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class HostCheck:
    """403 for a ``Host`` that is neither an address nor a name of this machine.

    A page can have its own name point at 127.0.0.1 once it is loaded (DNS rebinding): to the browser the server is then
    the page's own, whatever CORS says. Its name in ``Host`` gives it away. To be used where no key is asked for.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"host"]
        if all(map(_is_local, hosts)):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            403,
            "without an API key this server answers to localhost and to addresses alone, not to the Host of this "
            "request; call it by one of those, or give it a key (gptwo serve --api-key)",
            code="host_not_allowed",
        )
        await RequestIds(error.response())(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether ``--host`` is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_local(host: str) -> bool:
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.lower().rstrip(".") == "localhost" or name.lower().endswith(".localhost")
    return True
