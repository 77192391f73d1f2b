"""GET and POST /explain/prompt/{id}/…: parts of an explanation that is kept. The model does not run again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import Response

from gptwo.infer.policy import SamplingPolicy
from gptwo.serve.body import read_body, read_query
from gptwo.serve.errors import ApiError
from gptwo.serve.explaining import pictures
from gptwo.serve.explaining.explaining import Explaining
from gptwo.serve.explaining.kept import Made
from gptwo.serve.explaining.parts import contributions, following, lens, norms, sampled, worked
from gptwo.serve.offload import encode
from gptwo.serve.openapi import array_reply, json_body, query, replies
from gptwo.serve.routes.explain import require_below
from gptwo.serve.schemas.explain import (
    ContributionsQuery,
    ExplainReply,
    LensQuery,
    NextQuery,
    SamplingRequest,
    TensorQuery,
    ThumbnailsQuery,
    TileQuery,
    WorkedQuery,
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
        f"{PREFIX}/worked",
        summary="One entry of a tensor, and the numbers that it is made of",
        openapi_extra=query(WorkedQuery),
        responses=replies(ExplainReply),
    )
    async def entry(request: Request, explanation: str) -> Response:
        explaining, made = found(explanation)
        asked = read_query(request, WorkedQuery)
        return await in_json(explaining, lambda: worked(made.explanation, asked))

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

    @routes.post(
        f"{PREFIX}/sampling",
        summary="How the token after a position is drawn, stage by stage",
        openapi_extra=json_body(SamplingRequest),
        responses=replies(ExplainReply),
    )
    async def sampling(request: Request, explanation: str) -> Response:
        explaining, made = found(explanation)
        asked = await read_body(serving, request, SamplingRequest)
        require_below("position", asked.position, len(made.explanation.tokens))
        policy = SamplingPolicy(
            temperature=asked.temperature,
            top_k=asked.top_k if asked.top_k is not None and asked.top_k > 0 else None,
            top_p=asked.top_p or None,
            min_p=asked.min_p or None,
        )
        return await in_json(explaining, lambda: sampled(made.explanation, explaining.words, policy, asked))

    @routes.get(
        f"{PREFIX}/lens",
        summary="What the model would say after each block",
        openapi_extra=query(LensQuery),
        responses=replies(ExplainReply),
    )
    async def logit_lens(request: Request, explanation: str) -> Response:
        explaining, made = found(explanation)
        asked = read_query(request, LensQuery)
        return await in_json(explaining, lambda: lens(made.explanation, explaining.words, asked))

    @routes.get(
        f"{PREFIX}/contributions",
        summary="What each head and MLP adds to a logit",
        openapi_extra=query(ContributionsQuery),
        responses=replies(ExplainReply),
    )
    async def direct(request: Request, explanation: str) -> Response:
        explaining, made = found(explanation)
        asked = read_query(request, ContributionsQuery)
        require_below("position", asked.position, len(made.explanation.tokens))
        require_below("token", asked.token, serving.loaded.config.vocab_size)
        return await in_json(explaining, lambda: contributions(made.explanation, asked))

    @routes.get(f"{PREFIX}/norms", summary="Lengths of the residual stream", responses=replies(ExplainReply))
    async def lengths(explanation: str) -> Response:
        explaining, made = found(explanation)
        return await in_json(explaining, lambda: norms(made.explanation))

    return routes


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        shown = json.dumps(text[:20])
        raise ApiError(
            404, f"there is no {name} {shown}; expected a number", param=name, code="route_not_found"
        )
    return int(text)
