"""GET /health, /metrics, /version, and the page at /: for those who run the server, and those who come upon it."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from gptwo.base.version import __version__
from gptwo.serve.errors import RETRY_AFTER_S
from gptwo.serve.openapi import replies, text_reply
from gptwo.serve.schemas.status import Health, Version
from gptwo.serve.serving import Serving

# Nothing is loaded from anywhere, and nothing may be.
_HEALTH = {**replies(Health), 503: {"model": Health, "description": "Loading the model, or going down"}}
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
}


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

    @routes.get("/", summary="What this server is, for people", responses=text_reply("text/html"))
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(_page(serving, str(request.base_url)), headers=_PAGE_HEADERS)

    return routes


def _page(serving: Serving, base_url: str) -> str:
    name = escape(serving.settings.model_name)
    runs = "it is loading"
    if serving.model is not None:
        runs = f"{escape(serving.model.description)}, a context of {serving.context:,} tokens"
    key = " -H 'authorization: Bearer KEY'" if serving.settings.api_keys else ""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{name} on gptwo</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem }}
pre {{ padding: 1rem; overflow-x: auto; border: 1px solid; border-radius: .3rem }}
</style>
<h1>{name}</h1>
<p>gptwo {__version__} serves this model: {runs}. Any client of OpenAI's API can talk to it:</p>
<pre>curl {escape(base_url)}v1/completions -H 'content-type: application/json'{key} \\
  -d '{{"prompt": "The sea", "max_tokens": 32}}'</pre>
<ul>
<li><code>POST</code> <a href="/openapi.json">/v1/completions, /v1/chat/completions, /tokenize, /detokenize</a></li>
<li><code>GET</code> <a href="/v1/models">/v1/models</a>, <a href="/tokenizer_info">/tokenizer_info</a>,
<a href="/health">/health</a>, <a href="/metrics">/metrics</a>, <a href="/version">/version</a>,
<a href="/openapi.json">/openapi.json</a></li>
</ul>
</html>
"""
