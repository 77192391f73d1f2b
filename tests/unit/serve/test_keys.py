"""Who is let in. The matrix over the real table of routes is tests/e2e/serve/test_serve_keys.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgi import Recorder, body, call, header, scope, status

from gptwo.serve import keys
from gptwo.serve.keys import KeyCheck

KEYS = ("sk-first", "sk-second", "sk-third")


def asked(*values: bytes, path: str = "/v1/models", known: tuple[str, ...] = KEYS) -> tuple[int, Recorder]:
    app = Recorder()
    headers = [(b"host", b"here"), *((b"authorization", value) for value in values)]
    return status(call(KeyCheck(app, known), scope(path, headers), body(b""))), app


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("form", ["Bearer %s", "bearer %s", "BEARER  %s "])
def test_any_key_opens(key: str, form: str) -> None:
    code, app = asked((form % key).encode())
    assert code == 200
    assert len(app.scopes) == 1


@pytest.mark.parametrize(
    "values",
    [
        (),
        (b"",),
        (b"Bearer",),
        (b"Bearer ",),
        (b"sk-first",),
        (b"Basic sk-first",),
        (b"Bearer sk-firs",),
        (b"Bearer sk-first2",),
        (b"Bearer SK-FIRST",),
        (b"Bearer sk-first sk-second",),
        (b"Bearer \xff\xfe",),
        (b"Bearer sk-first", b"Bearer sk-first"),
        (b"Bearer sk-wrong", b"Bearer sk-first"),
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/no/such/route",
        "/health/",
        "//health",
        "/metrics",
        "/explain/model",
        "/web",
        "//web/app.js",
    ],
)
def test_nothing_else_does(values: tuple[bytes, ...], path: str) -> None:
    code, app = asked(*values, path=path)
    assert code == 401
    assert app.scopes == [], "the app was called"


def test_health_is_open_and_without_keys_everything_is() -> None:
    for path in ("/health", "/", "/web/app.js", "/web/panels/write.js"):
        assert asked(path=path)[0] == 200
    assert asked(b"Bearer sk-wrong", path="/health")[0] == 200
    assert asked(known=())[0] == 200


def test_the_refusal_is_openai_s() -> None:
    sent = call(KeyCheck(Recorder(), KEYS), scope("/v1/models", [(b"authorization", b"Bearer sk-guess")]))
    assert header(sent, "www-authenticate") == "Bearer"
    error = json.loads(sent[1]["body"])["error"]
    assert error["code"] == "invalid_api_key"
    assert "sk-guess" not in json.dumps(error)


def test_all_keys_are_compared_in_constant_time_and_as_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = keys.secrets.compare_digest

    def noted(found: Any, known: Any) -> bool:
        compared.append((found, known))
        return bool(real(found, known))

    monkeypatch.setattr(keys.secrets, "compare_digest", noted)
    for given in (b"Bearer sk-first", b"Bearer sk-third", b"Bearer s", b"Basic sk-first"):
        compared.clear()
        asked(given)
        assert len(compared) == len(KEYS)
        assert {len(one) for pair in compared for one in pair} == {32}


def test_what_is_no_request_passes() -> None:
    app = Recorder()
    call(KeyCheck(app, KEYS), {"type": "lifespan"})
    assert len(app.scopes) == 1
