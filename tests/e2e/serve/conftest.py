from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from running_server import RunningServer, running_server, small_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all modules that need nothing special of it."""
    with running_server(model_folder, log=tmp_path_factory.mktemp("log") / "serve.log") as running:
        yield running
        assert "Traceback" not in running.said(), running.said()[-4000:]
