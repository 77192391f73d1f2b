"""From the bytes of a request to what it asks for, or to one line that says what is wrong with it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, TypeVar

from fastapi.requests import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gptwo.serve.errors import ApiError
from gptwo.serve.offload import off_loop
from gptwo.serve.schemas.base import RequestBody
from gptwo.serve.serving import Serving

Body = TypeVar("Body", bound=RequestBody)
Query = TypeVar("Query", bound=BaseModel)

# A list may hold so many values beside those that are tokens: messages, biases, a schema.
_OTHER_VALUES = 8192
_SHOWN = 60
_EXPECTED = {
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "union_tag_invalid": "one with the type {expected_tags}",
    "union_tag_not_found": "one with a type",
    "string_pattern_mismatch": "a token id in decimal digits",
}


async def read_body(serving: Serving, request: Request, schema: type[Body]) -> Body:
    """The JSON body of ``request``. Raises ``ApiError``: 503 unless ready, 415 for another content type, else 400.

    More values than a request may have tokens, and some, are refused unread: a list of millions would hold up
    everybody else.
    """
    serving.require_ready()
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            415,
            f"the content type is {_shown(given)}; expected application/json (-H 'content-type: application/json')",
            code="unsupported_media_type",
        )
    data = await request.body()
    return await off_loop(
        partial(parse_body, schema, data, serving.settings.max_total_tokens + _OTHER_VALUES), len(data)
    )


def read_query(request: Request, schema: type[Query]) -> Query:
    """What stands behind the ? of ``request``. ``ApiError`` 400."""
    try:
        return schema.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0]) from None


def parse_body(schema: type[Body], data: bytes, most_values: int) -> Body:
    """What ``data`` asks for. ``ApiError`` 400."""
    if _has_more_values(data, most_values):
        raise ApiError(
            400,
            f"the body has more than {most_values:,} values; send fewer at a time",
            code="request_too_large",
        )
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0]) from None


def _has_more_values(data: bytes, most: int) -> bool:
    """Whether there are more commas outside of strings. Nothing is parsed, and only long bodies are copied."""
    if data.count(b",") <= most:
        return False
    bare = data.replace(rb"\\", b"").replace(rb"\"", b"")
    # Each value has at most two strings, its name and itself; so the parts to look at are not too many either.
    if bare.count(b'"') > 4 * (most + 1):
        return True
    return sum(part.count(b",") for part in bare.split(b'"')[::2]) > most


def _refusal(error: ErrorDetails) -> ApiError:
    kind, places, message = error["type"], error["loc"], error["msg"]
    shown = _shown(error["input"]) if kind != "json_invalid" else ""
    if kind == "json_invalid":
        message = message.removeprefix("Invalid JSON: ")
        return ApiError(400, f"the body is not JSON: {message}", code="invalid_json")
    if not places:
        return ApiError(400, f"the body is {shown}; expected a JSON object", code="invalid_type")
    if places[-1] == "[key]":
        param, shown = _path(places[:-2]), f"an object with the key {shown}"
    else:
        param = _path(places)
    if kind == "missing":
        return ApiError(400, f"{param} is missing; it is required", param=param, code="missing_field")
    if kind in _EXPECTED:
        message = _EXPECTED[kind].format(**{name: _plain(bound) for name, bound in error["ctx"].items()})
    elif kind == "value_error":
        message = str(error["ctx"]["error"])
    expected = message.removeprefix("Input should be ").removeprefix("a valid ")
    return ApiError(400, f"{param}={shown} is not possible; expected {expected}", param=param)


def _plain(bound: Any) -> Any:
    """A bound of a field that takes fractions, as people write it: 0, and not 0.0."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _path(places: tuple[int | str, ...]) -> str:
    path, before = "", None
    for place in places:
        # A union's branch stands before the field that is named as it.
        if place != before:
            path += f"[{place}]" if isinstance(place, int) else f".{place}" if path else place
        before = place
    return path if path.isprintable() and len(path) <= 100 else path.encode("unicode_escape").decode()[:100]


def _shown(value: Any) -> str:
    """A value for a message of one line, however long it is."""
    if isinstance(value, str):
        cut = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
        return json.dumps(cut, ensure_ascii=not cut.isprintable())
    if isinstance(value, (list, dict)) and value:
        return f"a list of {len(value):,}" if isinstance(value, list) else f"an object of {len(value):,}"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of more than 38 digits"
    return json.dumps(value)
