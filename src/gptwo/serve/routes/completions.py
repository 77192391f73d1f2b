"""POST /v1/completions: text that goes on from a prompt."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import Response

from gptwo.infer.task import Token
from gptwo.serve.body import read_body
from gptwo.serve.errors import ApiError
from gptwo.serve.events import DONE, EventStream, event
from gptwo.serve.logprobs import CompletionLogprobs
from gptwo.serve.logs import log_facts
from gptwo.serve.openapi import json_body, replies
from gptwo.serve.prompts import Prompt, encode_prompts
from gptwo.serve.schemas.completions import Completion, CompletionRequest
from gptwo.serve.serving import Serving
from gptwo.serve.tasks import choices_of, make_task, new_tokens
from gptwo.serve.texts import Tally, WrittenText, whole_reply
from gptwo.serve.writing import Piece

DEFAULT_MAX_TOKENS = 16


def router(serving: Serving) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post(
        "/v1/completions",
        summary="Go on from a prompt, or from several",
        openapi_extra=json_body(CompletionRequest),
        responses=replies(Completion, streams=True),
    )
    async def create_completion(request: Request) -> Response:
        asked = await read_body(serving, request, CompletionRequest)
        serving.require_model(asked.model)
        log_facts(request)["prompt"] = asked.prompt
        sent, written = choices_of(serving, asked.n, asked.best_of)
        if asked.stream and written > sent:
            raise ApiError(
                400,
                f"best_of={written} with n={sent} can't be streamed, as the best is known when all are done; "
                "expected best_of equal to n, or no stream",
                param="best_of",
            )
        serving.open_writer.require_room(written)
        prompts = await encode_prompts(serving, asked.prompt)
        # The texts of a prompt share its array, which is how the writer knows that it is one prompt.
        ids = [prompt.ids for prompt in prompts for _ in range(written)]
        most = DEFAULT_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens
        new_tokens(serving, [prompt.ids for prompt in prompts], most, texts_each=written)
        task = await make_task(
            serving,
            asked,
            ids,
            # With none, a prompt's own probabilities are asked for; the model reads it to write one, which is dropped.
            max_new_tokens=max(1, most),
            top_logprobs=asked.logprobs or 0,
            prompt_logprobs=bool(asked.echo) and asked.logprobs is not None,
        )
        reply = _Reply(serving, asked, prompts, sent, written)
        tally = Tally(request, serving.open_writer.submit(task), drop=most == 0)
        if asked.stream:
            return EventStream(reply.frames(tally), on_end=tally.close, ping_s=serving.settings.ping_s)
        return await whole_reply(request, tally, len(ids), reply.envelope, reply.choices)

    return routes


class _Reply:
    """The answer to one request."""

    def __init__(
        self, serving: Serving, asked: CompletionRequest, prompts: Sequence[Prompt], sent: int, written: int
    ) -> None:
        self.envelope = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": serving.settings.model_name,
        }
        self._counted = bool(asked.stream_options and asked.stream_options.include_usage)
        self._sent, self._written = sent, written
        self._choices = [_Choice(serving, asked, prompt) for prompt in prompts for _ in range(sent)]

    def choices(self, texts: Sequence[WrittenText]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(texts), self._written):
            candidates = texts[start : start + self._written]
            if self._written > self._sent:
                candidates = sorted(candidates, key=lambda text: -text.mean_logprob)[: self._sent]
            first = start // self._written * self._sent
            for index, text in enumerate(candidates, start=first):
                yield {"index": index, **self._choices[index].piece(text)}

    async def frames(self, tally: Tally) -> AsyncGenerator[bytes, None]:
        # OpenAI's: null in every chunk but the last, where they are asked for.
        chunk = {**self.envelope, "usage": None} if self._counted else self.envelope
        async for piece in tally:
            content = self._choices[piece.number].piece(piece)
            if any(content.values()):
                yield event({**chunk, "choices": [{"index": piece.number, **content}]})
        if self._counted:
            yield event({**self.envelope, "choices": [], "usage": tally.usage})
        yield DONE


class _Choice:
    """A text as it is answered, in one piece or in several."""

    def __init__(self, serving: Serving, asked: CompletionRequest, prompt: Prompt) -> None:
        self._echo = prompt if asked.echo else None
        self._logprobs = CompletionLogprobs(serving.tokenizer) if asked.logprobs is not None else None
        self._ids = bool(asked.return_token_ids)

    def piece(self, piece: Piece | WrittenText) -> dict[str, Any]:
        text, logprobs, echoed = piece.text, None, 0
        entries: list[tuple[int, Token | None]] = [(token.id, token) for token in piece.tokens]
        if self._echo is not None:
            text = self._echo.text + text
            echoed = len(piece.prompt)
            entries = [*zip(self._echo.ids.tolist(), piece.prompt, strict=False), *entries]
            self._echo = None
        if self._logprobs is not None and entries:
            logprobs = self._logprobs.next(entries, echoed=echoed)
        answer = {"text": text, "logprobs": logprobs, "finish_reason": piece.finish_reason}
        return {**answer, "token_ids": [token.id for token in piece.tokens]} if self._ids else answer
