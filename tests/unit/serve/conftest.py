"""The run that the tests of /explain are about, and its server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from explained import load, serve, write_run
from served import Client

from gptwo.infer.api import LanguageModel


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "mine")


@pytest.fixture(scope="module")
def model(run: Path) -> LanguageModel:
    return load(run)


@pytest.fixture
def during(model: LanguageModel) -> Callable[..., None]:
    """``during(body, **settings)``: ``body`` while it is served."""

    def during(body: Callable[[Client], Awaitable[None]], **settings: Any) -> None:
        serve(model, body, **settings)

    return during
