"""GET / and /web/…: the page, which is the same for every model and shows nothing of any before it asks /explain."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import Response

from gptwo.serve.errors import ApiError
from gptwo.serve.openapi import text_reply
from gptwo.serve.serving import Serving

WEB = Path(__file__).parents[1] / "web"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
# Nothing is loaded from anywhere else, and no other page may show this one. Pictures are drawn, and saved by a blob.
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # It is asked each time whether the file is still the same, and a new version is seen at once.
    "cache-control": "no-cache",
}


def router(serving: Serving) -> APIRouter:
    """The routes."""
    routes = APIRouter()
    files = {path.relative_to(WEB).as_posix(): path for path in WEB.rglob("*") if path.suffix in _TYPES}

    def file(request: Request, name: str) -> Response:
        if name not in files:
            raise ApiError(404, "the page has no such file", code="route_not_found")
        content = files[name].read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {**_HEADERS, "etag": tag, "content-type": _TYPES[files[name].suffix]}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    @routes.get("/", summary="The page, for people", responses=text_reply("text/html"))
    async def page(request: Request) -> Response:
        return file(request, "index.html")

    @routes.get(
        "/web/{name:path}",
        summary="What the page is made of",
        responses=text_reply(*(kind.partition(";")[0] for kind in _TYPES.values())),
    )
    async def web(request: Request, name: str) -> Response:
        return file(request, name)

    return routes
