"""/openapi.json: whole, with this server's limits, and what it says of requests is what the checks do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from served import Client, serve


def values(node: Any, name: str) -> Iterator[Any]:
    """Every value of that name, anywhere."""
    if isinstance(node, dict):
        if name in node:
            yield node[name]
        for inner in node.values():
            yield from values(inner, name)
    if isinstance(node, list):
        for inner in node:
            yield from values(inner, name)


def test_every_route_is_there_and_every_reference_leads_somewhere() -> None:
    async def body(client: Client) -> None:
        reply = await client.get("/openapi.json")
        document = reply.json
        assert document["paths"].keys() == {
            "/",
            "/detokenize",
            "/explain/continue",
            "/explain/heatmap",
            "/explain/model",
            "/explain/prompt",
            "/explain/prompt/{explanation}/attention",
            "/explain/prompt/{explanation}/attention/{layer}/{head}",
            "/explain/prompt/{explanation}/contributions",
            "/explain/prompt/{explanation}/lens",
            "/explain/prompt/{explanation}/next",
            "/explain/prompt/{explanation}/norms",
            "/explain/prompt/{explanation}/sampling",
            "/explain/prompt/{explanation}/tensor",
            "/explain/prompt/{explanation}/worked",
            "/explain/time",
            "/explain/training",
            "/health",
            "/metrics",
            "/tokenize",
            "/tokenizer_info",
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/models",
            "/v1/models/{model}",
            "/version",
            "/web/{name}",
        }
        names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
        assert set(values(document, "$ref")) <= names
        for path in document["paths"].values():
            for operation in path.values():
                error = operation["responses"]["default"]["content"]["application/json"]["schema"]
                assert error == {"$ref": "#/components/schemas/ErrorBody"}
                assert "422" not in operation["responses"]
        assert "security" not in document

    serve(body)


def test_the_limits_are_this_models_and_this_servers() -> None:
    async def body(client: Client) -> None:
        schemas = (await client.get("/openapi.json")).json["components"]["schemas"]
        fields = schemas["CompletionRequest"]["properties"]
        for name, most in (("n", 3), ("best_of", 5), ("max_tokens", 100)):
            assert list(values(fields[name], "maximum")) == [most]
        assert set(values(fields["prompt"], "maximum")) == {256}
        assert list(values(fields["model"], "enum")) == [["script"]]
        (bias,) = values(fields["logit_bias"], "patternProperties")
        (properties,) = [branch for branch in fields["logit_bias"]["anyOf"] if "maxProperties" in branch]
        assert properties["additionalProperties"] is False
        assert bias
        assert all(isinstance(limit, int | float) for limit in values(schemas, "maximum"))

    serve(body, context=100, max_n=3, max_best_of=5)


def test_keys_are_declared_where_they_are_asked_for() -> None:
    async def body(client: Client) -> None:
        reply = await client.get("/openapi.json", headers={"authorization": "Bearer secret"})
        assert reply.json["security"] == [{"key": []}]
        for path in ("/health", "/", "/web/{name}"):
            assert reply.json["paths"][path]["get"]["security"] == []
        assert "security" not in reply.json["paths"]["/explain/model"]["get"]
        assert (await client.get("/openapi.json")).status == 401

    serve(body, api_keys=("secret",))
