"""POST /tokenize and /detokenize, GET /tokenizer_info: the tokenizer, for clients that count or send ids."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import JSONResponse, Response

from gptwo.serve.body import read_body
from gptwo.serve.errors import ApiError
from gptwo.serve.logprobs import token_name
from gptwo.serve.offload import encode, encode_in_parts, in_parts
from gptwo.serve.openapi import json_body, replies
from gptwo.serve.prompts import chat_turns
from gptwo.serve.schemas.tokens import (
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfo,
)
from gptwo.serve.serving import Serving
from gptwo.tokenizer.chat import CHAT_TEMPLATE, own_template
from gptwo.tokenizer.stream import TextStream

MOST_CHARACTERS = 1 << 18
"""Of a text to encode. The tokenizer gives back what it made of it with Python's lock held: four times as many would be
a pause of a tenth of a second for everybody."""


def router(serving: Serving) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post(
        "/tokenize",
        summary="Text, or a conversation, to token ids",
        openapi_extra=json_body(TokenizeRequest),
        responses=replies(TokenizeReply),
    )
    async def tokenize(request: Request) -> Response:
        asked = await read_body(serving, request, TokenizeRequest)
        if (asked.prompt is None) == (asked.messages is None):
            raise ApiError(400, "expected either a prompt or messages", param="prompt")
        size = len(asked.prompt or "") + sum(len(message.text) for message in asked.messages or ())
        if size > MOST_CHARACTERS:
            raise ApiError(
                400,
                f"{size:,} characters are to be encoded; expected at most {MOST_CHARACTERS:,}; send a part of them",
                code="request_too_large",
            )
        async with serving.slow_work:
            content = await asyncio.to_thread(_tokenized, serving, asked)
        return Response(content, media_type="application/json")

    @routes.post(
        "/detokenize",
        summary="Token ids to text",
        openapi_extra=json_body(DetokenizeRequest),
        responses=replies(DetokenizeReply),
    )
    async def detokenize(request: Request) -> Response:
        asked = await read_body(serving, request, DetokenizeRequest)
        async with serving.slow_work:
            content = await asyncio.to_thread(_detokenized, serving, asked)
        return Response(content, media_type="application/json")

    @routes.get("/tokenizer_info", summary="What the tokenizer is", responses=replies(TokenizerInfo))
    async def tokenizer_info() -> JSONResponse:
        serving.require_ready()
        tokenizer = serving.tokenizer
        end = None if tokenizer.eot_id is None else token_name(tokenizer, tokenizer.eot_id)
        return JSONResponse(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "kind": tokenizer.kind,
                "vocab_size": tokenizer.vocab_size,
                "model_max_length": serving.context,
                "bos_token": end,
                "eos_token": end,
                "pad_token": None,
                "chat_template": own_template(tokenizer) or (CHAT_TEMPLATE if end else None),
            }
        )

    return routes


def _detokenized(serving: Serving, asked: DetokenizeRequest) -> bytes:
    tokenizer = serving.tokenizer
    if not tokenizer.decodes_by_bytes:
        return encode({"prompt": tokenizer.decode(asked.tokens)})
    # The same text; but others get Python's lock between two tokens, where `decode` keeps it to the end.
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in asked.tokens]
    return encode({"prompt": "".join([*pieces, stream.finish()])})


def _tokenized(serving: Serving, asked: TokenizeRequest) -> bytes:
    tokenizer = serving.tokenizer
    if asked.prompt is not None:
        tokens = tokenizer.encode(asked.prompt, allow_special=asked.parse_special)
    else:
        turns = chat_turns(asked.messages or ())
        tokens = tokenizer.render_chat(turns, add_generation_prompt=asked.add_generation_prompt)
    fields = {"count": len(tokens), "max_model_len": serving.context}
    if not asked.return_token_strs:
        return encode_in_parts({**fields, "token_strs": None}, tokens=in_parts(tokens))
    names = [token_name(tokenizer, token) for token in tokens]
    return encode_in_parts(fields, tokens=in_parts(tokens), token_strs=in_parts(names))
