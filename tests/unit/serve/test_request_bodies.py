"""What a client gets wrong: one line in OpenAI's form, never a 5xx, and never a long pause for others."""

from __future__ import annotations

import json

import pytest
from asgi_client import JSON, ask
from served import Client, serve

from gptwo.serve.body import parse_body
from gptwo.serve.errors import ApiError
from gptwo.serve.schemas.chat import ChatRequest
from gptwo.serve.schemas.completions import CompletionRequest

REFUSED = [
    # What is not JSON, or none that Python's parser would stop at.
    (b"", "EOF"),
    (b"{", "EOF"),
    (b"null", "JSON object"),
    (b"[]", "JSON object"),
    (b"1", "JSON object"),
    (b'"x"', "JSON object"),
    (b"\xef\xbb\xbf{}", "not JSON"),
    (b'{"a":1}{"b":2}', "not JSON"),
    (b'{"prompt": "\xff"}', "not JSON"),
    (b'{"prompt": "\\ud800"}', "not JSON"),
    (b'{"prompt": "\\udc00\\ud800"}', "not JSON"),
    (b'{"prompt": "\n"}', "not JSON"),
    (b"[" * 100_000, "recursion"),
    (b'{"a":' * 100_000, "recursion"),
    (b'{"prompt": ' + b"[" * 150 + b"]" * 150 + b"}", "prompt="),
    (b'{"seed": 1' + b"0" * 10_000 + b"}", "number"),
    # What is no number, or too large for one.
    (b'{"temperature": NaN}', "temperature=NaN"),
    (b'{"temperature": -Infinity}', "temperature=-Infinity"),
    (b'{"temperature": 1e309}', "temperature=Infinity"),
    (b'{"temperature": -1}', "at least 0"),
    (b'{"temperature": "1"}', 'temperature="1"'),
    (b'{"temperature": true}', "temperature=true"),
    (b'{"logit_bias": {"5": NaN}}', "logit_bias.5=NaN"),
    (b'{"logit_bias": {"5": 101}}', "at most 100"),
    (b'{"logit_bias": {"-1": 1}}', "decimal digits"),
    (b'{"logit_bias": {"1e3": 1}}', "decimal digits"),
    (b'{"logit_bias": [1]}', "logit_bias"),
    (b'{"top_p": 1.1}', "at most 1"),
    (b'{"top_k": -2}', "at least -1"),
    (b'{"max_tokens": -1}', "at least 0"),
    (b'{"max_tokens": 1.5}', "integer"),
    (b'{"max_tokens": 99999999999999999999}', "max_tokens"),
    (b'{"n": 0}', "at least 1"),
    (b'{"seed": -1}', "at least 0"),
    (b'{"seed": 9223372036854775808}', "at most 9223372036854775807"),
    (b'{"seed": 1' + b"0" * 100 + b"}", "more than 38 digits"),
    (b'{"presence_penalty": 2.1}', "at most 2"),
    (b'{"logprobs": 21}', "at most 20"),
    (b'{"logprobs": true}', "logprobs=true"),
    # What is of another kind.
    (b'{"prompt": {}}', "a string, a list of strings"),
    (b'{"prompt": []}', "a string, a list of strings"),
    (b'{"prompt": [[]]}', "a string, a list of strings"),
    (b'{"prompt": ["a", 1]}', "a string, a list of strings"),
    (b'{"prompt": [1, true]}', "a string, a list of strings"),
    (b'{"prompt": [1, -1]}', "a string, a list of strings"),
    (b'{"prompt": 5}', "a string, a list of strings"),
    (b'{"stop": ""}', "up to 4"),
    (b'{"stop": ["a", ""]}', "up to 4"),
    (b'{"stop": ["a", "b", "c", "d", "e"]}', "up to 4"),
    (b'{"stop": "' + b"x" * 1001 + b'"}', "1,000 characters"),
    (b'{"stream": 1}', "boolean"),
    (b'{"stream_options": {"include_usage": "yes"}}', "stream_options.include_usage"),
    (b'{"response_format": {"type": "xml"}}', "'text', 'json_object', 'json_schema'"),
    (b'{"response_format": {"type": "json_schema"}}', "response_format.json_schema is missing"),
    (b'{"response_format": {"type": "json_schema", "json_schema": {}}}', "json_schema.schema is missing"),
    (b'{"response_format": "json"}', "response_format"),
    (b'{"suffix": "x"}', "suffix"),
]


@pytest.mark.parametrize(("data", "says"), REFUSED)
def test_it_is_refused_in_one_line(data: bytes, says: str) -> None:
    with pytest.raises(ApiError) as raised:
        parse_body(CompletionRequest, data, 1000)
    message = str(raised.value)
    assert says in message
    assert message.isprintable()
    assert len(message) < 300
    assert raised.value.status == 400


def test_fields_that_are_not_known_are_passed_over_and_null_is_nothing() -> None:
    data = b'{"new": {"deep": [1, NaN]}, "n": null, "stop": null, "prompt": null, "response_format": null}'
    assert parse_body(CompletionRequest, data, 1000) == CompletionRequest()


def test_nothing_of_a_request_stands_in_an_error_beyond_a_few_characters() -> None:
    with pytest.raises(ApiError) as raised:
        parse_body(ChatRequest, b'{"messages": "' + b"secret" * 1000 + b'"}', 1000)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("name", ["a\nb", "\u202e", "x" * 1000, "\x1b[31m"])
def test_a_name_of_a_clients_cannot_break_the_line(name: str) -> None:
    for content in ({"logit_bias": {name: 1}}, {"logit_bias": {"1": name}}, {"user": {name: name}}):
        with pytest.raises(ApiError) as raised:
            parse_body(CompletionRequest, json.dumps(content).encode(), 1000)
        assert str(raised.value).isprintable()
        assert raised.value.param is None or raised.value.param.isprintable()
        assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        (b'{"prompt": [' + b",".join([b"1"] * 100) + b"]}", True),
        (b'{"prompt": [' + b",".join([b"1"] * 102) + b"]}", False),
        # Commas within strings are text, however they are escaped.
        (b'{"prompt": "' + b"," * 1000 + b'"}', True),
        (b'{"prompt": "' + b',\\"' * 1000 + b'"}', True),
        (b'{"prompt": "' + b"\\\\," * 1000 + b'\\\\"}', True),
        (b'{"prompt": "\\\\", "x": [' + b",".join([b"1"] * 102) + b"]}", False),
        (b'{"prompt": [' + b",".join([b'""'] * 1000) + b"]}", False),
        (b'{"x": [' + b",".join([b"{}"] * 1000) + b"]}", False),
    ],
)
def test_more_values_than_a_request_can_have_are_refused_unread(data: bytes, fits: bool) -> None:
    if fits:
        assert parse_body(CompletionRequest, data, 100).prompt
    else:
        with pytest.raises(ApiError, match="more than 100 values"):
            parse_body(CompletionRequest, data, 100)


@pytest.mark.parametrize(
    "given", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
def test_another_content_type_is_415(given: str | None) -> None:
    async def body(client: Client) -> None:
        headers = {} if given is None else {"content-type": given}
        reply = await client.post("/v1/completions", headers=headers, body=b"{}")
        assert (reply.status, reply.error["code"]) == (415, "unsupported_media_type")

    serve(body)


def test_json_of_any_writing_is_json() -> None:
    async def body(client: Client) -> None:
        for given in ("application/json; charset=utf-8", "Application/JSON"):
            reply = await client.post("/v1/completions", headers={"content-type": given}, body=b"{}")
            assert reply.status == 200

    serve(body)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", 404, "route_not_found"),
        ("POST", "/v1/completions/", 404, "route_not_found"),
        ("GET", "/../etc/passwd", 404, "route_not_found"),
    ],
)
def test_another_route_or_method(method: str, path: str, status: int, code: str) -> None:
    async def body(client: Client) -> None:
        reply = await ask(client.app, method, path, body=b"{}", headers=JSON)
        assert (reply.status, reply.error["code"]) == (status, code)
        if status == 405:
            assert reply.headers["allow"]

    serve(body)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-1.2_3", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("a b", False),
        ("a\tb", False),
        ("a\nb", False),
        ("é", False),
    ],
)
def test_every_reply_has_an_id(given: str, kept: bool) -> None:
    async def body(client: Client) -> None:
        for path in ("/health", "/nothing", "/v1/completions"):
            reply = await client.get(path, headers={"x-request-id": given})
            assert (reply.headers["x-request-id"] == given) == kept
            assert reply.headers["x-request-id"].isalnum() or kept
        assert (await client.complete(stream=True)).headers["x-request-id"]

    serve(body)


def test_what_nobody_foresaw_is_500_in_the_same_form(caplog: pytest.LogCaptureFixture) -> None:
    async def body(client: Client) -> None:
        def broken() -> None:
            raise RuntimeError("the insides of the server")

        client.serving.require_ready = broken  # type: ignore[method-assign]
        reply = await client.complete()
        assert (reply.status, reply.error["type"]) == (500, "server_error")
        assert "insides" not in reply.body.decode()
        assert reply.headers["x-request-id"]

    serve(body)
    assert "insides" in caplog.text


def test_a_key_is_asked_for_before_anything_is_read() -> None:
    async def body(client: Client) -> None:
        reply = await client.post("/v1/completions", headers=JSON, body=b"x" * 2000)
        assert (reply.status, reply.headers["x-request-id"] != "") == (401, True)
        with_key = {**JSON, "authorization": "Bearer secret"}
        assert (await client.post("/v1/completions", headers=with_key, body=b"x" * 2000)).status == 413
        assert (await client.post("/v1/completions", headers=with_key, body=b"{}")).status == 200

    serve(body, api_keys=("secret",), max_body_bytes=1000)
