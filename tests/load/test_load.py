"""Each attack for a few seconds: statuses and counts, never times. ``python tests/load`` runs long ones by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from running_server import RunningServer, running_server, small_model

pytest.importorskip("aiohttp", reason="pip install 'gptwo[dev]'")
attacks = pytest.importorskip("attacks")

SLOTS, QUEUE = 4, 4
CAPACITY = SLOTS + QUEUE


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("loaded"))


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("log") / "log"
    flags = ("--slots", SLOTS, "--queue", QUEUE, "--header-time", 1, "--body-time", 1)
    with running_server(model_folder, *flags, log=log) as running:
        yield running
        assert "Traceback" not in running.said(), running.said()[-4000:]


@pytest.fixture(autouse=True)
def still_answers(server: RunningServer) -> Iterator[None]:
    asked = {"prompt": "The sea keeps", "temperature": 0, "max_tokens": 8, "logprobs": 1}
    before = server.answer("/v1/completions", asked)["choices"]
    yield
    assert server.answer("/v1/completions", asked)["choices"] == before


def test_twenty_times_what_it_has_room_for(server: RunningServer) -> None:
    figures = asyncio.run(attacks.overload(server, clients=20 * CAPACITY, seconds=3))
    assert set(figures["statuses"]) == {200, 429}
    assert figures["refusals_without_retry_after"] == 0
    assert figures["next_status"] == 200


def test_streams_that_are_left(server: RunningServer) -> None:
    figures = asyncio.run(attacks.aborts(server, count=150, at_once=2 * CAPACITY))
    assert figures["running"] == figures["waiting"] == figures["kv_use"] == 0
    assert figures["descriptors_after"] <= figures["descriptors_before"]
    assert figures["ends"].keys() <= {"200", "429", "left before an answer"}
    assert figures["ends"]["200"] > 0


def test_slow_connections(server: RunningServer) -> None:
    figures = asyncio.run(attacks.slow(server, connections=60, seconds=3))
    assert figures["ends"]["ended by the server"] > 0
    assert figures["requests"] > 0
    assert figures["descriptors_after"] <= figures["descriptors_before"]


def test_what_is_long_to_compute(server: RunningServer) -> None:
    figures = asyncio.run(attacks.heavy(server, seconds=3))
    assert {status.split(" ")[1] for status in figures["statuses"]} <= {"200", "400", "413", "429"}
    assert figures["statuses"]["/v1/completions 200"] > 0


def test_many_kinds_for_a_while(server: RunningServer) -> None:
    figures = asyncio.run(attacks.soak(server, clients=SLOTS, seconds=4))
    assert figures["statuses"].keys() <= {200, 400, 429}
    assert figures["statuses"].keys() >= {200, 400}


def test_sigterm_while_streams_run(model_folder: Path, tmp_path: Path) -> None:
    with running_server(model_folder, "--slots", SLOTS, log=tmp_path / "log") as server:
        figures = asyncio.run(attacks.drain(server, clients=SLOTS, tokens=800))
    assert figures["ends"] == {"whole": SLOTS}
    assert figures["a_new_one"] in {"503", "connection refused"}
    assert figures["exit_code"] == 0
