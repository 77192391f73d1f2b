"""docs/explain-api.md lists the routes, the parameters, the keys, the limits and the errors that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from explained import PROMPT, explained, load, serve, write_run
from served import Client

from gptwo.infer.api import LanguageModel
from gptwo.perf.ceilings import Ceilings
from gptwo.serve.explaining import pictures
from gptwo.serve.schemas import explain as schemas

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "explain-api.md").read_text(encoding="utf-8")
ROUTES = dict(re.findall(r"^### ([A-Z]+ /explain/\S+)\n(.*?)(?=^##)", TEXT, flags=re.MULTILINE | re.DOTALL))
CEILINGS = Ceilings.from_json({
    "device": "cpu", "name": "a processor", "threads": 1, "matmul_flops_per_s": {"fp32": 1e11, "int8": 2e11},
    "model_matmul_flops_per_s": {"mlp.up": {"fp32": 1e11}}, "read_bytes_per_s": 3e10, "copy_bytes_per_s": 3e10,
    "dispatch_s": 1e-6, "launch_s": 1e-6, "transfers": None, "measured_at": "",
})  # fmt: skip


def listed(route: str, table: str) -> set[str]:
    """The names in the first cells of a route's table of that head."""
    _, _, rest = ROUTES[route].partition(f"\n| {table} |")
    rows = re.match(r"[^\n]*\n\|[-|]+\|\n((?:\|.*\n)*)", rest)
    cells = [line.split("|")[1] for line in rows[1].splitlines()] if rows else []
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(write_run(tmp_path_factory.mktemp("run") / "mine"))


def test_the_routes_and_their_parameters(model: LanguageModel) -> None:
    async def body(client: Client) -> None:
        document = (await client.get("/openapi.json")).json
        found = {
            f"{method.upper()} {path}": operation
            for path, operations in document["paths"].items()
            if path.startswith("/explain/")
            for method, operation in operations.items()
        }
        assert ROUTES.keys() == found.keys()
        for route, operation in found.items():
            asked = {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}
            assert listed(route, "Query") == asked, route
            content = operation.get("requestBody", {}).get("content", {})
            name = content.get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
            fields = document["components"]["schemas"][name]["properties"].keys() if name else set()
            assert listed(route, "Field") == set(fields), route

    serve(model, body)


def test_the_keys_of_every_answer(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptwo.perf.ceilings.cached_ceilings", lambda *given, **named: CEILINGS)
    looks = {
        "worked": "?name=logits&row=0&column=0", "next": "?position=0", "lens": "", "norms": "",
        "contributions": "?position=0&token=0",
    }  # fmt: skip

    async def body(client: Client) -> None:
        made = (await explained(client))["id"]
        here = "/explain/prompt/{explanation}"
        sampled = f"{here}/sampling".format(explanation=made)
        answers: dict[str, Any] = {
            "GET /explain/model": await client.get("/explain/model"),
            "GET /explain/training": await client.get("/explain/training"),
            "POST /explain/prompt": await client.post("/explain/prompt", {"prompt": PROMPT}),
            f"POST {here}/sampling": await client.post(sampled, {"position": 0}),
            "POST /explain/heatmap": await client.post("/explain/heatmap", {"prompt": "a", "other": "b"}),
            "POST /explain/continue": await client.post("/explain/continue", {"prompt": "a"}),
            "POST /explain/time": await client.post("/explain/time", {"prompt": "a"}),
        }
        for name, query in looks.items():
            answers[f"GET {here}/{name}"] = await client.get(f"/explain/prompt/{made}/{name}{query}")
        for route, reply in answers.items():
            assert reply.status == 200, (route, reply.body)
            assert listed(route, "Key") == reply.json.keys(), route
        arrays = {f"GET {here}/{name}" for name in ("tensor", "attention", "attention/{layer}/{head}")}
        assert ROUTES.keys() == answers.keys() | arrays
        badge = answers["POST /explain/prompt"].json["badge"]
        row = answers["POST /explain/time"].json["prefill"]["rows"][0]
        moment = answers["POST /explain/time"].json["timeline"][0]
        for route, keys in (("POST /explain/prompt", badge), ("POST /explain/time", row | moment)):
            assert set(keys) <= set(re.findall(r"`(\w+)`", ROUTES[route])), route

    serve(model, body)


def test_the_limits_in_numbers() -> None:
    assert f"| {pictures.MOST_VALUES:,} values |" in TEXT
    for route, field, most in (
        ("POST /explain/continue", "max_tokens", schemas.MOST_NEW_TOKENS),
        ("POST /explain/time", "decode_tokens", schemas.MOST_TIMED_TOKENS),
    ):
        assert re.search(rf"^\| `{field}` \|.* to {most}", ROUTES[route], flags=re.MULTILINE)


def test_the_codes_of_errors_are_those_of_the_server() -> None:
    section = TEXT.partition("## Limits and errors")[2]
    codes = set(
        re.findall(
            r"`([a-z]+_[a-z_]+)`", "".join(re.findall(r"^\| \d+ \|([^|]+)\|", section, flags=re.MULTILINE))
        )
    )
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/gptwo/serve").rglob("*.py"))
    assert len(codes) > 8
    assert {code for code in codes if f'"{code}"' not in source} == set()
    raised = set()
    for path in [*(ROOT / "src/gptwo/serve/explaining").glob("*.py"), ROOT / "src/gptwo/serve/serving.py"]:
        raised |= set(re.findall(r'code="(\w+)"', path.read_text(encoding="utf-8")))
    assert raised - {"model_not_found"} <= codes
