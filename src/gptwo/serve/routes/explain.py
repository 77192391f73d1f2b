"""What runs the model to explain it: POST /explain/prompt and time; and GET /explain/model and training."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import Response

from gptwo.base.errors import ConfigError
from gptwo.explanation.edits import MLP, require_once
from gptwo.explanation.edits import Place as Part
from gptwo.infer.engine import Tokens
from gptwo.serve.body import read_body, read_query
from gptwo.serve.errors import ApiError
from gptwo.serve.explaining.explaining import Explaining
from gptwo.serve.offload import encode
from gptwo.serve.openapi import json_body, query, replies
from gptwo.serve.prompts import encode_prompts
from gptwo.serve.schemas.explain import (
    ExplainReply,
    Place,
    PromptReply,
    PromptRequest,
    TimeRequest,
    TrainingQuery,
    TrainingReply,
)
from gptwo.serve.serving import Serving


def router(serving: Serving) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/explain/model", summary="What is explained", responses=replies(ExplainReply))
    async def model() -> Response:
        explaining = serving.open_explaining
        content = await asyncio.to_thread(_described, serving, explaining)
        return Response(content, media_type="application/json")

    @routes.get(
        "/explain/training",
        summary="The log of the run that the model is of",
        responses=replies(TrainingReply),
        openapi_extra=query(TrainingQuery),
    )
    async def training(request: Request) -> Response:
        checkpoints = serving.open_explaining.checkpoints
        asked = read_query(request, TrainingQuery)

        def read() -> bytes:
            live = checkpoints.live
            fields = {"checkpoints": checkpoints.steps(), "live": live}
            return encode({"records": checkpoints.records(asked.after), **fields})

        return Response(await asyncio.to_thread(read), media_type="application/json")

    @routes.post(
        "/explain/prompt",
        summary="A prompt's forward pass",
        openapi_extra=json_body(PromptRequest),
        responses=replies(PromptReply),
    )
    async def prompt(request: Request) -> Response:
        explaining = serving.open_explaining
        asked = await read_body(serving, request, PromptRequest)
        tokens = await tokens_of(serving, asked.prompt, asked.tokens)
        changes = await changes_of(serving, asked)

        def explain() -> bytes:
            return encode(explaining.explain(tokens, checkpoint=asked.checkpoint, **changes).reply)

        return Response(await explaining.lane.run(explain, model_run=True), media_type="application/json")

    @routes.post(
        "/explain/time",
        summary="Where the time of a prompt and of the tokens after it goes",
        openapi_extra=json_body(TimeRequest),
        responses=replies(ExplainReply),
    )
    async def where_time_goes(request: Request) -> Response:
        explaining = serving.open_explaining
        asked = await read_body(serving, request, TimeRequest)
        tokens = await tokens_of(serving, asked.prompt, asked.tokens)
        if asked.decode_tokens >= serving.context:
            message = (
                f"decode_tokens={asked.decode_tokens} is not possible; expected less than {serving.context}"
            )
            raise ApiError(400, message, param="decode_tokens", code="context_length_exceeded")

        def run() -> bytes:
            return encode(explaining.time(tokens, asked.decode_tokens))

        return Response(await explaining.lane.run(run, model_run=True), media_type="application/json")

    return routes


async def tokens_of(
    serving: Serving, prompt: str | None, tokens: list[int] | None, param: str = "prompt"
) -> Tokens:
    """The ids that are meant; 400 for both, neither, and what does not fit into the context."""
    if (prompt is None) == (tokens is None):
        got = "neither" if prompt is None else "both"
        raise ApiError(400, f"expected either a prompt or tokens, got {got}", param=param)
    (encoded,) = await encode_prompts(serving, prompt if tokens is None else tokens)
    return encoded.ids


def require_below(name: str, value: int | None, count: int) -> int | None:
    """``value``; 400 when there are no so many."""
    if value is not None and value >= count:
        raise ApiError(400, f"{name}={value} is not possible; expected 0 to {count - 1}", param=name)
    return value


async def changes_of(serving: Serving, asked: PromptRequest) -> dict[str, Any]:
    """What ``Explaining.changes`` and ``explain`` are to be given for it by name."""
    changes: dict[str, Any] = {}
    ablated = [_part(one, "ablate") for one in asked.ablate or ()]
    _require_once(ablated, "ablate")
    if ablated:
        changes["ablate"] = [(*part, one.to) for part, one in zip(ablated, asked.ablate or (), strict=True)]
    if asked.patch is not None:
        changes["other"] = await tokens_of(serving, asked.patch.prompt, asked.patch.tokens, "patch")
        changes["places"] = [_part(one, "patch") for one in asked.patch.places]
        _require_once([*ablated, *changes["places"]], "patch")
    return changes


def _require_once(parts: Sequence[Part], param: str) -> None:
    try:
        require_once(parts)
    except ConfigError as error:
        raise ApiError(400, str(error), param=param) from None


def _part(place: Place, param: str) -> Part:
    if (place.head is None) == (not place.mlp):
        raise ApiError(400, "expected of a place either a head or mlp: true", param=param)
    return Part(place.layer, MLP if place.head is None else place.head)


def _described(serving: Serving, explaining: Explaining) -> bytes:
    from gptwo.costs import cost_table

    model = serving.loaded
    table = cost_table(model.config)
    steps: Sequence[int] | None = explaining.checkpoints.steps()
    return encode(
        {
            "name": serving.settings.model_name,
            "description": model.description,
            "reference": explaining.reference_facts,
            "config": dataclasses.asdict(model.config),
            "parameters": table.parameters,
            "rows": [dataclasses.asdict(row) for row in table.rows],
            "tolerance": explaining.tolerance,
            "checkpoint": explaining.checkpoints.served,
            "checkpoints": steps,
            "live": explaining.checkpoints.live,
            "context": serving.most_prompt_tokens,
            "special": {"eot": model.tokenizer.eot_id},
        }
    )
