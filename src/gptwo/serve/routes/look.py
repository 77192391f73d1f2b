"""GET and POST /explain/prompt/{id}/…: parts of an explanation that is kept. The model does not run again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import Response

from gptwo.serve.body import read_query
from gptwo.serve.errors import ApiError
from gptwo.serve.explaining import pictures
from gptwo.serve.explaining.explaining import Explaining
from gptwo.serve.explaining.kept import Made
from gptwo.serve.explaining.parts import following
from gptwo.serve.offload import encode
from gptwo.serve.openapi import array_reply, query, replies
from gptwo.serve.routes.explain import require_below
from gptwo.serve.schemas.explain import (
    ExplainReply,
    NextQuery,
    TensorQuery,
    ThumbnailsQuery,
    TileQuery,
)
from gptwo.serve.serving import Serving

PREFIX = "/explain/prompt/{explanation}"


def router(serving: Serving) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    def found(explanation: str) -> tuple[Explaining, Made]:
        explaining = serving.open_explaining
        return explaining, explaining.made(explanation)

    async def in_json(explaining: Explaining, work: Callable[[], Any]) -> Response:
        content = await explaining.lane.run(lambda: encode(work()))
        return Response(content, media_type="application/json")

    async def in_numbers(explaining: Explaining, work: Callable[[], pictures.Picture]) -> Response:
        picture = await explaining.lane.run(work)
        headers = {"X-Shape": picture.shape, "X-Range": picture.range}
        return Response(picture.content, headers=headers, media_type="application/octet-stream")

    @routes.get(
        f"{PREFIX}/tensor",
        summary="A tensor or a part of it, float32",
        openapi_extra=query(TensorQuery),
        responses=array_reply(
            "little-endian float32, the last axis together; X-Range is of the whole tensor"
        ),
    )
    async def tensor(request: Request, explanation: str) -> Response:
        explaining, made = found(explanation)
        asked = read_query(request, TensorQuery)
        return await in_numbers(explaining, lambda: pictures.tensor(made.explanation, asked))

    @routes.get(
        f"{PREFIX}/attention",
        summary="All heads, small",
        openapi_extra=query(ThumbnailsQuery),
        responses=array_reply("L×H×n×n bytes; 255 is a weight of 1; of each field the largest"),
    )
    async def thumbnails(request: Request, explanation: str) -> Response:
        explaining, made = found(explanation)
        asked = read_query(request, ThumbnailsQuery)
        return await in_numbers(explaining, lambda: pictures.thumbnails(made.explanation, asked.size))

    @routes.get(
        f"{PREFIX}/attention/{{layer}}/{{head}}",
        summary="A head's weights or a part of them",
        openapi_extra=query(TileQuery),
        responses=array_reply("bytes, 255 is a weight of 1, or little-endian float32"),
    )
    async def tile(request: Request, explanation: str, layer: str, head: str) -> Response:
        explaining, made = found(explanation)
        asked = read_query(request, TileQuery)
        at = _number("layer", layer), _number("head", head)
        return await in_numbers(explaining, lambda: pictures.tile(made.explanation, *at, asked))

    @routes.get(
        f"{PREFIX}/next",
        summary="The most probable tokens after a position",
        openapi_extra=query(NextQuery),
        responses=replies(ExplainReply),
    )
    async def most_probable(request: Request, explanation: str) -> Response:
        explaining, made = found(explanation)
        asked = read_query(request, NextQuery)
        require_below("position", asked.position, len(made.explanation.tokens))
        return await in_json(explaining, lambda: following(made.explanation, explaining.words, asked))

    return routes


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        shown = json.dumps(text[:20])
        raise ApiError(
            404, f"there is no {name} {shown}; expected a number", param=name, code="route_not_found"
        )
    return int(text)
