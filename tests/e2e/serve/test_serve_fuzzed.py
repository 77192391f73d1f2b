"""schemathesis against our own /openapi.json: what the description allows and what it does not, and every boundary."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from running_server import RunningServer, running_server, small_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="needs schemathesis: pip install 'gptwo[dev]'"
)

# A request that is as described may still be refused with 400: ``fuzzing_checks.py`` says for which reasons.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404"]
"""
CHECKS = Path(__file__).with_name("fuzzing_checks.py")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    # A chat without max_tokens fills the context: a small one.
    folder = small_model(tmp_path_factory.mktemp("fuzzed") / "model", context=96)
    with running_server(folder, log=folder.with_name("log")) as server:
        yield server
        server.wait_until_idle()
        assert "Traceback" not in server.said(), server.said()[-4000:]


def fuzz(server: RunningServer, folder: Path, examples: int) -> None:
    (folder / "schemathesis.toml").write_text(SETTINGS, encoding="utf-8")
    flags = f"--phases examples,coverage,fuzzing --mode all --max-examples {examples} --seed 1 --request-timeout 300"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
            *flags.split(),
            *("--suppress-health-check", "all", "--continue-on-failure"),
        ],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "SCHEMATHESIS_HOOKS": str(CHECKS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2000:]


def test_a_few_requests_of_every_kind(fuzzed: RunningServer, tmp_path: Path) -> None:
    fuzz(fuzzed, tmp_path, examples=4)


@pytest.mark.long
def test_many_requests_of_every_kind(fuzzed: RunningServer, tmp_path: Path) -> None:
    fuzz(fuzzed, tmp_path, examples=1000)
