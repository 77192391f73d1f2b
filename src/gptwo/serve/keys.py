"""Bearer keys: the middleware that asks for one on every route but ``/health`` and the page's files."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gptwo.serve.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_ROUTES = frozenset({"/health", "/", "/web/{name}"})
"""What answers without a key: a load balancer has none, and learns only whether the server is up; the page is the
program, the same for every model, and asks for the key itself."""
_OPEN_FOLDER = "/web/"


class KeyCheck:
    """Asks every request for ``Authorization: Bearer KEY``, unknown routes too; else 401.

    OPEN_ROUTES are left out, and without keys nobody is asked.

    Hashes are compared, of equal length and in constant time, and all of them each time: how long an answer takes says
    nothing about how much of a key was right, or which.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[str]) -> None:
        self._app = app
        self._hashes = [_hash(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"]) or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "no valid API key; expected the header Authorization: Bearer KEY with a key of this server",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await error.response()(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        if not self._hashes:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        found = _hash(key.strip(b" "))
        matches = [secrets.compare_digest(found, known) for known in self._hashes]
        return scheme.lower() == b"bearer" and any(matches)


def _is_open(path: str) -> bool:
    return path in OPEN_ROUTES or path.startswith(_OPEN_FOLDER)


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
