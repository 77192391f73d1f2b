"""What if a part were another: POST /explain/heatmap and continue, which run the model many times."""

from __future__ import annotations

import threading
from functools import partial

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import Response

from gptwo.serve.body import read_body
from gptwo.serve.events import unless_gone
from gptwo.serve.offload import encode
from gptwo.serve.openapi import json_body, replies
from gptwo.serve.prompts import encode_prompts
from gptwo.serve.routes.explain import changes_of, require_below, tokens_of
from gptwo.serve.schemas.explain import ContinueRequest, ExplainReply, HeatMapRequest
from gptwo.serve.serving import Serving
from gptwo.serve.texts import CLIENT_CLOSED


def router(serving: Serving) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post(
        "/explain/heatmap",
        summary="Each head alone, patched from another prompt",
        openapi_extra=json_body(HeatMapRequest),
        responses=replies(ExplainReply),
    )
    async def heat_map(request: Request) -> Response:
        explaining = serving.open_explaining
        asked = await read_body(serving, request, HeatMapRequest)
        tokens = await tokens_of(serving, asked.prompt, asked.tokens)
        (other, _), *_ = await encode_prompts(serving, asked.other)
        position = require_below("position", asked.position, len(tokens))
        token = require_below("token", asked.token, serving.loaded.config.vocab_size)

        def run() -> bytes:
            from gptwo.explanation.whatif import heat_map

            before = explaining.explain(tokens, checkpoint=asked.checkpoint).explanation
            after = explaining.explain(other, checkpoint=asked.checkpoint).explanation
            at = len(tokens) - 1 if position is None else position
            chosen = int(before.top.ids[at, 0]) if token is None else token
            grid = heat_map(before, after, position=at, token=chosen)
            return encode({"position": at, "token": explaining.words.entry(chosen), "grid": grid.tolist()})

        return Response(await explaining.lane.run(run, model_run=True), media_type="application/json")

    @routes.post(
        "/explain/continue",
        summary="What is written after a prompt, before and after a change",
        openapi_extra=json_body(ContinueRequest),
        responses=replies(ExplainReply),
    )
    async def go_on(request: Request) -> Response:
        explaining = serving.open_explaining
        asked = await read_body(serving, request, ContinueRequest)
        tokens = await tokens_of(serving, asked.prompt, asked.tokens)
        changes = await changes_of(serving, asked)
        left = threading.Event()

        def run() -> bytes:
            from gptwo.explanation.whatif import continuation

            reference = explaining.reference(asked.checkpoint)
            write = partial(
                continuation,
                reference,
                tokens,
                max_new_tokens=asked.max_tokens,
                eot_id=serving.tokenizer.eot_id,
                stopped=left.is_set,
            )
            changed = explaining.changes(reference, tokens, **changes)
            texts = {"before": write(), "after": write(changes=changed)}
            words = explaining.words
            return encode(
                {
                    name: {"text": words.text(ids), "tokens": [words.entry(token) for token in ids]}
                    for name, ids in texts.items()
                }
            )

        # As many whole passes as tokens, twice: nobody else waits for what its client no longer does.
        work = explaining.lane.run(run, model_run=True, on_leave=left.set)
        content = await unless_gone(request.receive, work)
        if content is None:
            return Response(status_code=CLIENT_CLOSED)
        return Response(content, media_type="application/json")

    return routes
