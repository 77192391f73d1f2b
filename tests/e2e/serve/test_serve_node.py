"""The official ``openai`` client of npm, unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from running_server import RunningServer

SCRIPT = Path(__file__).with_name("openai_client.cjs")
NODE = shutil.which("node")
# The folder ``node_modules`` that has it.
MODULES = os.environ.get("GPTWO_NODE_MODULES", "")

pytestmark = pytest.mark.skipif(
    not NODE or not (Path(MODULES) / "openai" / "package.json").is_file(),
    reason="needs node and `npm install openai`; GPTWO_NODE_MODULES=…/node_modules says where that is",
)


@pytest.fixture(scope="module")
def found(server: RunningServer) -> dict[str, Any]:
    """What the script printed."""
    done = subprocess.run(
        [str(NODE), str(SCRIPT), f"{server.url}/v1", server.model],
        env={**os.environ, "NODE_PATH": MODULES},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_models(server: RunningServer, found: dict[str, Any]) -> None:
    assert found["models"] == [server.model]


def test_completions_whole_and_in_a_stream(found: dict[str, Any]) -> None:
    (choice,) = found["completion"]["choices"]
    assert found["streamed"] == choice["text"]
    assert len(choice["logprobs"]["tokens"]) == found["completion"]["usage"]["completion_tokens"]


def test_chat_whole_and_in_a_stream(found: dict[str, Any]) -> None:
    assert (
        found["chatStreamed"]["choices"][0]["message"]["content"]
        == (found["chat"]["choices"][0]["message"]["content"])
    )
    assert found["usage"]["completion_tokens"] == found["chat"]["usage"]["completion_tokens"]


def test_errors_have_their_classes(found: dict[str, Any]) -> None:
    assert all(error.pop("id") for error in found["errors"].values())
    assert found["errors"]["temperature"]["class"] == "BadRequestError"
    assert found["errors"]["temperature"]["param"] == "temperature"
    assert found["errors"]["model"] == {
        "class": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
        "param": "model",
    }


def test_it_frees_its_place_when_it_goes(server: RunningServer, found: dict[str, Any]) -> None:
    assert found
    server.wait_until_idle()
