"""Every error a client can see: OpenAI's body, the status, and the id of the request on every reply."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi.requests import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptwo.base.errors import (
    ConfigError,
    ContextLengthError,
    GptwoError,
    MissingExtraError,
    QueueFullError,
    ServerClosingError,
    TokenizerError,
)

RETRY_AFTER_S = 1
"""What 429 and 503 ask a client to wait."""

_log = logging.getLogger(__name__)
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Errors of the rooms below that a client can do something about; any other is the server's own.
_KNOWN: tuple[tuple[type[GptwoError], int, str | None], ...] = (
    (QueueFullError, 429, "queue_full"),
    (ServerClosingError, 503, "closing"),
    (ContextLengthError, 400, "context_length_exceeded"),
    (ConfigError, 400, None),
    (TokenizerError, 400, None),
    (MissingExtraError, 400, "not_installed"),
)
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(GptwoError):
    """An error that is answered with ``status``. ``param`` is the field at fault, ``code`` the kind, for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = "invalid_value" if code is None and status == 400 else code
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S))

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's form: {"error": {message, type, param, code}}."""
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The reply, ready to be returned from a route or called by a middleware."""
        return JSONResponse(self.body, self.status, self.headers)


def api_error(error: Exception) -> ApiError:
    """What a client is told of ``error``: a mistake of its own in full, one of ours without its insides."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, error.detail, headers=error.headers)
    for kind, status, code in _KNOWN:
        if isinstance(error, kind):
            return ApiError(status, str(error), code=code)
    _log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed on this request; its log says how", code="internal_error")


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """The handler of every exception that a route raises."""
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        return _no_such_route(request, error).response()
    return api_error(error).response()


def _no_such_route(request: Request, error: HTTPException) -> ApiError:
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"this route does not take {request.method[:20]!r}; expected {allowed}"
        return ApiError(405, message, code="method_not_allowed", headers=error.headers)
    return ApiError(404, "there is no such route; /openapi.json lists them", code="route_not_found")


class RequestIds:
    """Gives every reply an ``x-request-id``, the client's own if it is short and plain, and answers what nobody caught.

    The id is ``scope["state"]["request_id"]`` for those within. To be the outermost.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if started:
                raise
            await api_error(error).response()(scope, receive, send_with_id)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _PLAIN_ID.fullmatch(given):
                return str(given)
    return uuid.uuid4().hex
