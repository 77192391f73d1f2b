"""What if a part were another: POST /explain/heatmap and continue, which run the model many times."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import Response

from gptwo.serve.body import read_body
from gptwo.serve.events import unless_gone
from gptwo.serve.explaining.explaining import Explaining
from gptwo.serve.offload import encode
from gptwo.serve.openapi import json_body, replies
from gptwo.serve.prompts import encode_prompts
from gptwo.serve.routes.explain import changes_of, require_below, tokens_of
from gptwo.serve.schemas.explain import ContinueRequest, ExplainReply, HeatMapRequest
from gptwo.serve.serving import Serving
from gptwo.serve.texts import CLIENT_CLOSED

Left = Callable[[], bool]
"""Whether the client has gone."""


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

        def run(left: Left) -> bytes:
            from gptwo.explanation.whatif import heat_map

            before = explaining.explain(tokens, checkpoint=asked.checkpoint).explanation
            after = explaining.explain(other, checkpoint=asked.checkpoint).explanation
            at = len(tokens) - 1 if position is None else position
            chosen = int(before.top.ids[at, 0]) if token is None else token
            grid = heat_map(before, after, position=at, token=chosen, stopped=left)
            # Of one that was stopped nobody reads the answer, and JSON has no NaN.
            values = None if left() else grid.tolist()
            return encode({"position": at, "token": explaining.words.entry(chosen), "grid": values})

        return await _while_there(explaining, request, run)

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

        def run(left: Left) -> bytes:
            from gptwo.explanation.whatif import continuation

            reference = explaining.reference(asked.checkpoint)
            write = partial(
                continuation,
                reference,
                tokens,
                max_new_tokens=asked.max_tokens,
                eot_id=serving.tokenizer.eot_id,
                stopped=left,
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

        return await _while_there(explaining, request, run)

    return routes


async def _while_there(explaining: Explaining, request: Request, run: Callable[[Left], bytes]) -> Response:
    """What ``run`` gives in its turn. It takes many passes: nobody else waits for it when its client no longer does."""
    left = threading.Event()
    work = explaining.lane.run(partial(run, left.is_set), model_run=True, on_leave=left.set)
    content = await unless_gone(request.receive, work)
    if content is None:
        return Response(status_code=CLIENT_CLOSED)
    return Response(content, media_type="application/json")
