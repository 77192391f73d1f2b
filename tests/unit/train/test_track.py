"""Trackers get the figures of ``metrics.jsonl``; their programs' own readers say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from gptwo.base.errors import MissingExtraError
from gptwo.config import TrainConfig
from gptwo.train.loop import train
from gptwo.train.metrics import read_metrics
from gptwo.train.track import open_tracker

Build = Callable[..., TrainConfig]


def logged(run: Path, name: str) -> list[tuple[int, float]]:
    return [(r["step"], r[name]) for r in read_metrics(run / "metrics.jsonl") if name in r]


def test_tensorboard_gets_the_same_figures(tiny: Build, tmp_path: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="pip install 'gptwo[track]' to run it",
    )
    train(tiny(track="tensorboard"))
    events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [
        (step, pytest.approx(loss, rel=1e-6)) for step, loss in logged(tmp_path / "run", "loss")
    ]


# In a process of its own: trackio reads where it writes, TRACKIO_DIR, when it is imported.
_TRAIN_AND_READ = """
import json, sys
from gptwo.cli import main
arguments = json.loads(sys.argv[1])
assert main([*arguments, "--steps", "3"]) == 0
assert main(["train", "--out", sys.argv[2], "--resume", "--steps", "5"]) == 0
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps(SQLiteStorage.get_logs("gptwo", sys.argv[2])))
"""


@pytest.mark.skipif(find_spec("trackio") is None, reason="pip install 'gptwo[track]' to run it")
def test_trackio_gets_the_same_figures_and_prints_nothing(data_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["train", "--data", data_folder, "--out", run, "--n-layer", 1, "--n-head", 1, "--n-embd", 8]
    arguments += ["--context", 16, "--batch-tokens", 32, "--log-every", 1, "--sample-tokens", 0]
    arguments += ["--device", "cpu", "--track", "trackio"]
    completed = subprocess.run(
        [sys.executable, "-c", _TRAIN_AND_READ, json.dumps([str(a) for a in arguments]), str(run)],
        capture_output=True,
        text=True,
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")},
        check=True,
    )
    assert "rackio" not in completed.stdout.replace(str(tmp_path), ""), "standard output is the command's"
    records = json.loads(completed.stdout.splitlines()[-1])
    assert logged(run, "loss")[-1][0] == 5
    for name in ("loss", "lr", "gradient_norm", "val_loss"):
        assert [(r["step"], r[name]) for r in records if name in r] == logged(run, name), name
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "torch.utils.tensorboard.writer"), ("trackio", "trackio")]
)
def test_a_tracker_that_is_not_installed_is_named(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{name}; install it with: pip install 'gptwo\[track\]'"):
        open_tracker(name, tmp_path)
