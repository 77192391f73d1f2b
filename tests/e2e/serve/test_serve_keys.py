"""Every route with no key, wrong keys and right ones; the matrix is made from the application's own table of routes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from running_server import Reply, RunningServer, running_server

for package in ("fastapi", "httptools", "prometheus_client"):
    pytest.importorskip(package, reason="pip install 'gptwo[serve]'")

KEYS = ("sk-right-1", "sk-right-2")
OPEN = {"/health", "/", "/web/x"}
WRONG: dict[str, dict[str, str]] = {
    "none": {},
    "another": {"Authorization": "Bearer sk-wrong"},
    "the first half": {"Authorization": f"Bearer {KEYS[0][:6]}"},
    "more than it": {"Authorization": f"Bearer {KEYS[0]}x"},
    "both": {"Authorization": f"Bearer {','.join(KEYS)}"},
    "nothing after Bearer": {"Authorization": "Bearer "},
    "no scheme": {"Authorization": KEYS[0]},
    "another scheme": {"Authorization": f"Basic {KEYS[0]}"},
    "not ASCII": {"Authorization": "Bearer \xff\xe9"},
    "another header": {"X-Api-Key": KEYS[0], "Cookie": f"Authorization=Bearer {KEYS[0]}"},
}


def table_of_routes() -> list[tuple[str, str]]:
    """Method and path of everything that the application answers, with a value in the place of each parameter."""
    from fastapi.routing import iter_route_contexts

    from gptwo.serve.app import create_app
    from gptwo.serve.metrics import Metrics
    from gptwo.serve.serving import Serving
    from gptwo.serve.settings import ServeSettings

    app = create_app(Serving(settings=ServeSettings(), metrics=Metrics()))
    found = {
        (method, re.sub(r"\{[^}]*\}", "x", route.path))
        for route in iter_route_contexts(app.routes)
        for method in route.methods or {"GET"}
    }
    return sorted(found)


ROUTES = table_of_routes()
# And what it does not have: whoever has no key does not learn which paths there are.
ASKED = [*ROUTES, ("GET", "/no/such"), ("DELETE", "/v1/models"), ("GET", "/health/x"), ("GET", "//health")]
each_route = pytest.mark.parametrize(("method", "path"), ASKED, ids=[" ".join(asked) for asked in ASKED])


@pytest.fixture(scope="module")
def locked(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("locked") / "log"
    with running_server(model_folder, *(f"--api-key={key}" for key in KEYS), log=log, key=KEYS[0]) as server:
        yield server
        said = server.said()
        assert not [key for key in KEYS if key in said], "a key in the log"


def asked(server: RunningServer, method: str, path: str, headers: dict[str, str]) -> Reply:
    """A request with these headers and no others; a body where a body is due."""
    body = {"max_tokens": 1} if method == "POST" else None
    return RunningServer(server.process, server.port, server.log).ask(
        path, body, method=method, headers=headers
    )


def test_the_table_is_whole() -> None:
    paths = {path for _, path in ROUTES}
    assert paths >= {
        "/",
        "/health",
        "/metrics",
        "/openapi.json",
        "/version",
        "/v1/models",
        "/v1/models/x",
        "/v1/completions",
        "/v1/chat/completions",
        "/tokenize",
        "/detokenize",
        "/tokenizer_info",
        "/web/x",
        "/explain/model",
        "/explain/prompt",
        "/explain/prompt/x/attention/x/x",
    }


@each_route
@pytest.mark.parametrize("which", WRONG)
def test_without_a_right_key(locked: RunningServer, method: str, path: str, which: str) -> None:
    reply = asked(locked, method, path, WRONG[which])
    if path in OPEN:
        assert reply.status in {200, 404, 405}
        return
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Bearer")
    if method != "HEAD":
        assert reply.error()["code"] == "invalid_api_key"


@each_route
@pytest.mark.parametrize("key", KEYS)
def test_with_a_right_key(locked: RunningServer, method: str, path: str, key: str) -> None:
    reply = asked(locked, method, path, {"Authorization": f"Bearer {key}"})
    expected = {200, 400, 404} if (method, path) in ROUTES else {404, 405}
    assert reply.status in expected, reply.body
