"""``litellm``, unchanged, in an interpreter of its own: it wants other versions of what we have.

Several times others have published releases of it that steal keys: it is no part of the extra ``dev``, an old release
is named, and it is given a bare environment.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from running_server import RunningServer

SCRIPT = Path(__file__).with_name("litellm_client.py")
INTERPRETER = os.environ.get("GPTWO_LITELLM_PYTHON", "")

pytestmark = pytest.mark.skipif(
    not INTERPRETER,
    reason="needs an environment of its own with litellm==1.104.9; GPTWO_LITELLM_PYTHON=…/bin/python says where",
)

SETTINGS: dict[str, Any] = {"seed": 1, "max_tokens": 20, "temperature": 1.1}


@pytest.fixture(scope="module")
def found(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script printed."""
    home = str(tmp_path_factory.mktemp("home"))
    done = subprocess.run(
        [INTERPRETER, str(SCRIPT), f"{server.url}/v1", server.model],
        env={"HOME": home, "PATH": os.defpath, "NO_PROXY": "*"},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # It also prints advice.
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_chat(server: RunningServer, found: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "What does the sea bring?"}]
    answer = server.answer("/v1/chat/completions", {"messages": messages, **SETTINGS})
    assert found["chat"] == found["chat streamed"] == answer["choices"][0]["message"]["content"]


def test_completions(server: RunningServer, found: dict[str, Any]) -> None:
    answer = server.answer("/v1/completions", {"prompt": "The sea keeps", **SETTINGS})
    assert found["completion"] == found["completion streamed"] == answer["choices"][0]["text"]


def test_errors_have_their_classes(found: dict[str, Any]) -> None:
    assert found["errors"] == {
        "temperature": ["BadRequestError", 400],
        "model": ["NotFoundError", 404],
        "length": ["ContextWindowExceededError", 400],
    }
