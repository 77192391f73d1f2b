"""What /openapi.json says: the schemas that requests are checked with, with this model's and this server's limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gptwo.serve.keys import OPEN_ROUTES
from gptwo.serve.schemas.base import ErrorBody
from gptwo.serve.schemas.chat import ChatCompletionChunk, ChatRequest
from gptwo.serve.schemas.completions import CompletionRequest
from gptwo.serve.schemas.explain import (
    ContinueRequest,
    HeatMapRequest,
    PromptRequest,
    SamplingRequest,
    TimeRequest,
)
from gptwo.serve.schemas.tokens import DetokenizeRequest, TokenizeRequest
from gptwo.serve.serving import Serving

REQUESTS = (
    *(CompletionRequest, ChatRequest, TokenizeRequest, DetokenizeRequest),
    *(PromptRequest, SamplingRequest, HeatMapRequest, ContinueRequest, TimeRequest),
)

_REF = "#/components/schemas/{model}"
_ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorBody, "description": "What went wrong"}}
_DESCRIPTION = (
    "OpenAI's API over one GPT-2. Fields that are not listed are ignored. Every reply has an x-request-id; every error "
    "has OpenAI's body."
)


def json_body(schema: type[BaseModel]) -> dict[str, Any]:
    """A route's body, which it reads itself: FastAPI would parse large ones on the event loop."""
    content = {"application/json": {"schema": {"$ref": _REF.format(model=schema.__name__)}}}
    return {"requestBody": {"required": True, "content": content}}


def query(schema: type[BaseModel]) -> dict[str, Any]:
    """A route's parameters behind the ?, which it reads itself: FastAPI's refusal of a wrong one is not OpenAI's."""
    document = schema.model_json_schema()
    required = document.get("required", [])
    parameters = []
    for name, field in document.get("properties", {}).items():
        kind = dict(field)
        # A parameter that is left out is null; there is no other way to say it.
        if "anyOf" in kind:
            (one,) = [branch for branch in kind.pop("anyOf") if branch != {"type": "null"}]
            kind |= one
        if kind.get("default", 0) is None:
            del kind["default"]
        kind.pop("title", None)
        parameters.append({"name": name, "in": "query", "required": name in required, "schema": kind})
    return {"parameters": parameters}


def replies(schema: type[BaseModel], *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """All replies of a route that answers in JSON, or in events."""
    answer: dict[str, Any] = {"model": schema, "description": "The answer"}
    if streams:
        answer["description"] += "; with stream, an event for each piece of it"
        answer["content"] = {"text/event-stream": {}}
    return {200: answer, **_ERRORS}


def text_reply(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """All replies of a route that answers in text of one of these types."""
    content = {media_type: {"schema": {"type": "string"}} for media_type in media_types}
    return {200: {"description": "The answer", "content": content}, **_ERRORS}


def array_reply(description: str) -> dict[int | str, dict[str, Any]]:
    """All replies of a route that answers in numbers: their bytes alone, and their shape in a header."""
    header = {"required": True, "schema": {"type": "string"}}
    answer = {
        "description": description,
        "content": {"application/octet-stream": {}},
        "headers": {
            "X-Shape": {**header, "description": "as 12,64"},
            "X-Range": {**header, "description": "min,max"},
        },
    }
    return {200: answer, **_ERRORS}


def describe(app: FastAPI, serving: Serving) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (schema, "validation") for schema in (*REQUESTS, ChatCompletionChunk, ErrorBody)
    ]
    _, definitions = models_json_schema(models, ref_template=_REF)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    settings, config = serving.settings, serving.loaded.config
    names: dict[str, int | str] = {
        "model_name": settings.model_name,
        "max_n": settings.max_n,
        "max_best_of": settings.max_best_of,
        "context": config.context,
        "last_token": config.vocab_size - 1,
    }
    _fill(schemas, names)
    if settings.api_keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        for path in OPEN_ROUTES & document["paths"].keys():
            for operation in document["paths"][path].values():
                operation["security"] = []
    return document


def _fill(schema: Any, names: Mapping[str, int | str]) -> None:
    """Put what the server and the model have in the place of its name, wherever a schema has one."""
    if isinstance(schema, list):
        for item in schema:
            _fill(item, names)
    if isinstance(schema, dict):
        if isinstance(most := schema.get("maximum"), str):
            schema["maximum"] = names[most]
        if schema.get("enum") == ["model_name"]:
            schema["enum"] = [names["model_name"]]
        for item in schema.values():
            _fill(item, names)
