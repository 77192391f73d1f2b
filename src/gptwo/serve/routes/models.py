"""GET /v1/models: the one model, by the name that clients ask for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from gptwo.serve.openapi import replies
from gptwo.serve.schemas.status import Model, ModelList
from gptwo.serve.serving import Serving


def router(serving: Serving) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    def described() -> dict[str, Any]:
        serving.require_ready()
        return {
            "id": serving.settings.model_name,
            "object": "model",
            "created": serving.started,
            "owned_by": "gptwo",
            "max_model_len": serving.context,
        }

    @routes.get("/v1/models", summary="What is served", responses=replies(ModelList))
    async def list_models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [described()]})

    # A name may have slashes in a client's mind; ours has none, and nothing here is ever a path.
    @routes.get("/v1/models/{model:path}", summary="A model by its id", responses=replies(Model))
    async def retrieve_model(model: str) -> JSONResponse:
        found = described()
        serving.require_model(model)
        return JSONResponse(found)

    return routes
