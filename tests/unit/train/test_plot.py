from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from gptwo.train import plot
from gptwo.train.plot import plot_loss

BLUE, RED = (0x1F, 0x5F, 0x99), (0xC8, 0x55, 0x3D)


def metrics(folder: Path, records: list[dict[str, float]]) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def run_of(steps: int) -> list[dict[str, float]]:
    records: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        records.append({"step": step, "loss": 5.0 / step})
        if step % 5 == 0:
            records.append({"step": step, "val_loss": 5.5 / step, "val_loss_per_byte": 1.0})
    return records


def pixels_of(path: Path, colour: tuple[int, int, int]) -> int:
    """How many pixels have just this colour, the lines' own; antialiased edges are others."""
    picture = image.imread(path)
    assert picture.shape[:2] == (540, 960)
    return int((np.round(picture[..., :3] * 255) == np.array(colour)).all(axis=-1).sum())


def test_both_curves_are_drawn(tmp_path: Path) -> None:
    target = tmp_path / "loss.png"
    plot_loss(metrics(tmp_path, run_of(20)), target, title="mine")
    assert target.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert pixels_of(target, BLUE) > 500
    assert pixels_of(target, RED) > 100
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []


@pytest.mark.parametrize(
    ("records", "blue", "red"),
    [
        ([{"step": 1, "val_loss": 2.0}], False, True),
        ([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], True, False),
    ],
)
def test_one_curve_alone(records: list[dict[str, float]], blue: bool, red: bool, tmp_path: Path) -> None:
    plot_loss(metrics(tmp_path, records), tmp_path / "loss.png", title="mine")
    assert (pixels_of(tmp_path / "loss.png", BLUE) > 0) == blue
    assert (pixels_of(tmp_path / "loss.png", RED) > 0) == red


def test_redrawing_replaces_the_picture_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "loss.png"
    plot_loss(metrics(tmp_path, run_of(5)), target, title="mine")
    before = target.read_bytes()

    def fail(self: plot.Figure, path: Path, **_: object) -> None:
        path.write_bytes(b"half a pic")
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(plot.Figure, "savefig", fail)
        with pytest.raises(OSError, match="the disk is full"):
            plot_loss(metrics(tmp_path, run_of(20)), target, title="mine")
    assert target.read_bytes() == before, "the picture that was there is whole"
    plot_loss(metrics(tmp_path, run_of(20)), target, title="mine")
    assert target.read_bytes() != before


def test_the_same_run_gives_the_same_picture(tmp_path: Path) -> None:
    for name in ("one.png", "other.png"):
        plot_loss(metrics(tmp_path, run_of(10)), tmp_path / name, title="mine")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_a_title_of_any_letters_is_no_formula(tmp_path: Path) -> None:
    plot_loss(metrics(tmp_path, run_of(5)), tmp_path / "loss.png", title="tiếng_Việt $x^$")
    assert pixels_of(tmp_path / "loss.png", BLUE) > 0


def test_smoothing_keeps_a_straight_line() -> None:
    line = tuple(float(step) for step in range(240))
    middle = slice(4, -4)
    assert plot._smooth(line)[middle] == pytest.approx(line[middle])
    assert plot._smooth((3.0, 1.0)) == [3.0, 1.0]
