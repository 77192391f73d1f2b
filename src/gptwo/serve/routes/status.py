"""GET /health, /metrics, /version: for those who run the server."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from gptwo.base.version import __version__
from gptwo.serve.errors import RETRY_AFTER_S
from gptwo.serve.openapi import replies, text_reply
from gptwo.serve.schemas.status import Health, Version
from gptwo.serve.serving import Serving

_HEALTH = {**replies(Health), 503: {"model": Health, "description": "Loading the model, or going down"}}


def router(serving: Serving) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/health", summary="Whether requests are answered", responses=_HEALTH)
    async def health() -> JSONResponse:
        status = {"status": serving.status}
        if serving.ready:
            return JSONResponse(status)
        return JSONResponse(status, 503, {"Retry-After": str(RETRY_AFTER_S)})

    @routes.get("/version", summary="The version of gptwo", responses=replies(Version))
    async def version() -> JSONResponse:
        return JSONResponse({"version": __version__})

    @routes.get("/metrics", summary="For Prometheus", responses=text_reply("text/plain"))
    async def metrics() -> Response:
        content, media_type = serving.metrics.exposition()
        return Response(content, headers={"content-type": media_type})

    return routes
