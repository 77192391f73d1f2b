"""GET /v1/models, /health, /version, /metrics; and what all routes do before the model is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from served import Client, serve

import gptwo
from gptwo.serve.schemas.status import Health, Model, ModelList, Version


def test_the_one_model_is_listed_and_found_by_its_name() -> None:
    async def body(client: Client) -> None:
        listed = await client.get("/v1/models")
        ModelList.model_validate_json(listed.body, strict=True)
        found = await client.get("/v1/models/script")
        Model.model_validate_json(found.body, strict=True)
        assert listed.json["data"] == [found.json]
        assert found.json["id"] == "script"
        assert found.json["max_model_len"] == 1000

    serve(body)


@pytest.mark.parametrize("name", ["gpt-4", "a/b", "..%2F..%2Fetc%2Fpasswd", "%00", "", "script/"])
def test_another_name_is_not_found(name: str) -> None:
    async def body(client: Client) -> None:
        reply = await client.get(f"/v1/models/{name}")
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")

    serve(body)


def test_health_and_version() -> None:
    async def body(client: Client) -> None:
        reply = await client.get("/health")
        assert (reply.status, reply.json) == (200, {"status": "ok"})
        reply = await client.get("/version")
        Version.model_validate_json(reply.body, strict=True)
        assert reply.json == {"version": gptwo.__version__}

    serve(body)


def test_metrics_are_prometheus_text() -> None:
    async def body(client: Client) -> None:
        reply = await client.get("/metrics")
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("text/plain")

    serve(body)


def not_ready(client: Client) -> None:
    client.serving.ready = False


def loading(client: Client) -> None:
    client.serving.model = client.serving.writer = None
    not_ready(client)


@pytest.mark.parametrize(("change", "status"), [(loading, "loading"), (not_ready, "closing")])
def test_before_and_after_it_serves_it_says_so(change: Callable[[Client], None], status: str) -> None:
    async def body(client: Client) -> None:
        writer = client.serving.writer
        change(client)
        asking: list[Awaitable] = [
            client.get("/v1/models"),
            client.get("/v1/models/script"),
            client.get("/tokenizer_info"),
            client.get("/openapi.json"),
            client.get("/explain/model"),
            client.get("/explain/prompt/x/norms"),
            client.post("/explain/prompt", {}),
            client.complete(),
            client.chat(messages=[]),
            client.post("/tokenize", {}),
            client.post("/detokenize", {}),
        ]
        for asked in asking:
            reply = await asked
            assert (reply.status, reply.error["code"]) == (503, status)
            assert int(reply.headers["retry-after"]) > 0
        reply = await client.get("/health")
        Health.model_validate_json(reply.body, strict=True)
        assert (reply.status, reply.json) == (503, {"status": status})
        assert int(reply.headers["retry-after"]) > 0
        for path in ("/version", "/metrics", "/"):
            assert (await client.get(path)).status == 200
        client.serving.writer = writer

    serve(body)


def test_there_are_no_pages_that_load_from_elsewhere() -> None:
    async def body(client: Client) -> None:
        for path in ("/docs", "/redoc"):
            assert (await client.get(path)).status == 404

    serve(body)
