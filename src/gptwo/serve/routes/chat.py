"""POST /v1/chat/completions: the answer to a conversation."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import Response

from gptwo.infer.task import FinishReason, Token
from gptwo.serve.body import read_body
from gptwo.serve.events import DONE, EventStream, event
from gptwo.serve.logprobs import chat_logprobs
from gptwo.serve.logs import log_facts
from gptwo.serve.openapi import json_body, replies
from gptwo.serve.prompts import chat_turns, encode_chat
from gptwo.serve.schemas.chat import ChatCompletion, ChatRequest
from gptwo.serve.serving import Serving
from gptwo.serve.tasks import choices_of, make_task, new_tokens
from gptwo.serve.texts import Tally, WrittenText, whole_reply


def router(serving: Serving) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        openapi_extra=json_body(ChatRequest),
        responses=replies(ChatCompletion, streams=True),
    )
    async def create_chat_completion(request: Request) -> Response:
        asked = await read_body(serving, request, ChatRequest)
        serving.require_model(asked.model)
        turns = chat_turns(asked.messages)
        log_facts(request)["messages"] = turns
        count, _ = choices_of(serving, asked.n)
        serving.open_writer.require_room(count)
        ids = await encode_chat(serving, turns)
        most = new_tokens(serving, [ids], asked.most, texts_each=count)
        task = await make_task(
            serving,
            asked,
            [ids] * count,
            max_new_tokens=most,
            top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else 0,
        )
        reply = _Reply(serving, asked)
        tally = Tally(request, serving.open_writer.submit(task))
        if asked.stream:
            return EventStream(reply.frames(tally), on_end=tally.close, ping_s=serving.settings.ping_s)
        return await whole_reply(request, tally, count, reply.envelope("chat.completion"), reply.choices)

    return routes


class _Reply:
    """The answer to one request."""

    def __init__(self, serving: Serving, asked: ChatRequest) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = serving.settings.model_name
        self._tokenizer = serving.tokenizer if asked.logprobs else None
        self._counted = bool(asked.stream_options and asked.stream_options.include_usage)

    def envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def choices(self, texts: Sequence[WrittenText]) -> Iterator[dict[str, Any]]:
        for index, text in enumerate(texts):
            message = {"role": "assistant", "content": text.text}
            yield self._choice(index, {"message": message}, text.tokens, text.finish_reason)

    async def frames(self, tally: Tally) -> AsyncGenerator[bytes, None]:
        envelope = self.envelope("chat.completion.chunk")
        # OpenAI's: null in every chunk but the last, where they are asked for.
        chunk = {**envelope, "usage": None} if self._counted else envelope
        begun: set[int] = set()
        async for number, text, tokens, finish_reason, _ in tally:
            choices = []
            if number not in begun:
                begun.add(number)
                choices.append(self._choice(number, {"delta": {"role": "assistant", "content": ""}}))
            if text or self._tokenizer is not None:
                choices.append(self._choice(number, {"delta": {"content": text}}, tokens))
            if finish_reason is not None:
                choices.append(self._choice(number, {"delta": {}}, finish_reason=finish_reason))
            for choice in choices:
                yield event({**chunk, "choices": [choice]})
        if self._counted:
            yield event({**envelope, "choices": [], "usage": tally.usage})
        yield DONE

    def _choice(
        self,
        index: int,
        content: dict[str, Any],
        tokens: Sequence[Token] = (),
        finish_reason: FinishReason | None = None,
    ) -> dict[str, Any]:
        logprobs = chat_logprobs(self._tokenizer, tokens) if self._tokenizer is not None and tokens else None
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}
