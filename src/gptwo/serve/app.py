"""The application: routes, and what stands before them. Whoever runs it loads the model and sets ``serving.ready``."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from gptwo.base.errors import GptwoError
from gptwo.base.version import __version__
from gptwo.serve.errors import RequestIds, answer_error
from gptwo.serve.keys import KeyCheck
from gptwo.serve.limits import BodyLimit
from gptwo.serve.openapi import describe
from gptwo.serve.routes import chat, completions, explain, look, models, page, status, tokens, whatif
from gptwo.serve.serving import Serving


def create_app(serving: Serving) -> FastAPI:
    """The service of ``serving``. A request meets its id, the key, the limit of its body, and a route."""
    app = _Application(serving)
    for family in (models, completions, chat, tokens, status, page, explain, whatif, look):
        app.include_router(family.router(serving))
    for error in (GptwoError, HTTPException):
        app.add_exception_handler(error, answer_error)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, settings=serving.settings)
    app.add_middleware(KeyCheck, keys=serving.settings.api_keys)
    app.add_middleware(RequestIds)
    return app


class _Application(FastAPI):
    def __init__(self, serving: Serving) -> None:
        # Its pages of documentation load scripts from elsewhere. A path is what it is, and leads to no other.
        super().__init__(
            title="gptwo", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
        )
        self._serving = serving

    def openapi(self) -> dict[str, Any]:
        """The document, made when it is first asked for: the model's limits are in it."""
        self._serving.require_ready()
        if self.openapi_schema is None:
            self.openapi_schema = describe(self, self._serving)
        return self.openapi_schema
