from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from tiny_checkpoint import save_tiny

from gptwo.base.errors import CheckpointError, MissingExtraError
from gptwo.checkpoint.resolve import hub_id, resolve_model
from gptwo.checkpoint.runs import checkpoint_path


class Hub:
    """Stands where ``snapshot_download`` is: what was asked of it, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answer: Path | Exception = LocalEntryNotFoundError("Got: ConnectError: no network\nmore words")

    def __call__(self, repository: str, **options: Any) -> str:
        self.asked.append((repository, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    return hub


def refused(name: str | Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        resolve_model(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_checkpoint_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    folder = save_tiny(tmp_path / "gpt2", 1)
    assert resolve_model(folder) == folder
    assert resolve_model(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert resolve_model("gpt2") == Path("gpt2")  # what is here comes before the hub
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/gpt2") == folder
    assert hub.asked == []


def test_a_run_is_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    first, second = (save_tiny(checkpoint_path(tmp_path / "run", step), step) for step in (1, 2))
    assert resolve_model(tmp_path / "run") == second
    (second / "model.safetensors").write_bytes(b"damaged")
    assert resolve_model(tmp_path / "run") == first
    (first / "model.safetensors").write_bytes(b"damaged")
    assert "has no whole checkpoint" in refused(tmp_path / "run")


def test_a_checkpoint_set_aside_is_found(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", 1).rename(tmp_path / ".old-model")
    assert resolve_model(tmp_path / "model") == tmp_path / ".old-model"


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    assert "it has neither config.json nor checkpoints/; expected a folder with config.json" in refused(
        tmp_path
    )


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "model.ckpt", "model.pkl"])
def test_a_pickle_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert f"{name} is a pickle, which is never opened" in refused(tmp_path / name)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "model.safetensors is a file; expected a folder" in refused(tmp_path / "model.safetensors")


PATHS = [
    "./runs/one",
    "../model",
    "~/model",
    "/no/such/model",
    "a/b/c",
    "runs/model.pt",
    "x/model.safetensors",
    "gpt3",
]
PATHS += ["", ".", "..", "a//b", "owner/", "/name", "C:\\models\\one", "owner/name\n", "-x/y"]


@pytest.mark.parametrize("name", [name for name in PATHS if name not in ("", ".", "..")])
def test_what_looks_like_a_path_is_never_asked_of_the_network(name: str, hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="there is no model"):
        resolve_model(name)
    assert hub.asked == []


@pytest.mark.parametrize("name", PATHS)
def test_paths_are_no_hub_ids(name: str) -> None:
    assert hub_id(name) is None


def test_a_slip_of_the_pen_beside_other_runs_is_not_asked_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    (tmp_path / "runs" / "shakespeare").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "there is no model 'runs/shakespaere'; expected" in refused("runs/shakespaere")
    refused(Path("owner/name"))  # a Path is a path
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("gpt2", "openai-community/gpt2"),
        ("gpt2-xl", "openai-community/gpt2-xl"),
        ("owner/name", "owner/name"),
        ("owner/gpt-2.1_b", "owner/gpt-2.1_b"),
    ],
)
def test_a_hub_id_is_fetched_without_pickles(tmp_path: Path, hub: Hub, name: str, repository: str) -> None:
    hub.answer = save_tiny(tmp_path / "snapshot", 1)
    assert resolve_model(name) == hub.answer
    ((asked, options),) = hub.asked
    assert asked == repository
    assert sorted(options["allow_patterns"]) == ["*.json", "*.safetensors", "*.txt"]
    assert options["ignore_patterns"] == ["*/*"]


def test_a_repository_with_pickles_only_is_refused(tmp_path: Path, hub: Hub) -> None:
    hub.answer = tmp_path
    (tmp_path / "config.json").write_text(json.dumps({}))
    assert "the hub's 'owner/name' has no model.safetensors, and pickles are never fetched" in refused(
        "owner/name"
    )


def test_no_network_is_one_clear_line(hub: Hub) -> None:
    assert refused("owner/name").startswith(
        "there is no folder 'owner/name', and it cannot be fetched from the hub (Got: ConnectError: no network); "
    )
    hub.answer = RuntimeError()
    assert "(RuntimeError)" in refused("owner/name")


def test_no_such_repository(hub: Hub) -> None:
    hub.answer = HFValidationError("bad id")
    assert "there is no model 'owner/name', neither here nor in public on the hub" in refused("owner/name")


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"'openai-community/gpt2'.*pip install 'gptwo\[data\]'"):
        resolve_model("gpt2")
    assert "there is no model './gpt2'" in refused("./gpt2")
