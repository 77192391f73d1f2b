"""Training: the run's log, and a slider over its checkpoints that redraws what the prompt shows."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gptwo
from gptwo.base.lock import FolderLock
from page_visit import PROMPT, Visit, expecting, settled
from running_server import RunningServer, running_server


def test_the_curves_are_those_of_the_log(visit: Visit, run_folder: Path) -> None:
    page = visit("training")
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    evaluated = [record["val_loss"] for record in records if "val_loss" in record]
    chart = page.locator(".panel-training svg").first
    assert chart.locator("path.first").get_attribute("d").count("L") == len(losses) - 1
    assert chart.locator("circle").count() == len(evaluated)
    readout = page.locator(".readout").first.inner_text()
    assert f"{losses[-1]:.3f}" in readout
    assert f"{evaluated[-1]:.3f}" in readout


def test_the_slider_redraws_with_each_checkpoint(visit: Visit, run_folder: Path) -> None:
    page = visit("training")
    slider = page.locator("#checkpoint-at")
    assert slider.get_attribute("max") == "1"
    slider.focus()
    for key, step in (("Home", 10), ("End", 20)):
        page.keyboard.press(key)
        expecting(page).to_have_url(re.compile(f"checkpoint={step}$"))
        settled(page, "training")
        found = gptwo.explain(run_folder / "checkpoints" / f"step-{step:08d}", PROMPT)
        assert f"{found.surprisal[-1]:.3f} nats" in page.locator("#chosen").inner_text()
        row = page.locator(".panel-training tr.current").inner_text()
        assert f"{found.surprisal[1:].mean():.3f}" in row
    assert page.evaluate("document.activeElement.id") == "checkpoint-at"


@pytest.fixture
def growing(run_folder: Path, tmp_path: Path) -> Iterator[tuple[Path, RunningServer]]:
    """A copy of the run that looks as if it trained: its lock is held."""
    run = tmp_path / "run"
    shutil.copytree(run_folder, run, symlinks=True)
    lock = FolderLock(run)
    try:
        with running_server(run, log=tmp_path / "serve.log") as running:
            yield run, running
    finally:
        lock.release()


def log_more(run: Path, steps: range) -> None:
    lines = [json.dumps({"step": step, "loss": 3 - step / 100}) + "\n" for step in steps]
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(lines)


def save_as(run: Path, step: int) -> None:
    """A checkpoint appears whole, as training moves it into its place."""
    folder = run / "checkpoints"
    shutil.copytree(folder / "step-00000020", folder / "building")
    (folder / "building").rename(folder / f"step-{step:08d}")


def test_the_curve_and_the_slider_grow_while_the_run_trains(
    growing: tuple[Path, RunningServer], visit: Visit
) -> None:
    run, server = growing
    page = visit("training", url=f"{server.url}/?lang=en#training?prompt={PROMPT.replace(' ', '+')}")
    live = page.locator(".panel-training .live")
    expecting(live).to_have_text("Training goes on: step 20.")
    curve = page.locator(".panel-training svg").first.locator("path.first")
    points = curve.get_attribute("d").count("L")
    slider = page.locator("#checkpoint-at")
    expecting(slider).to_have_attribute("max", "1")
    slider.focus()
    slider.evaluate("(node) => (node.kept = true)")

    log_more(run, range(22, 32, 2))
    save_as(run, 30)
    expecting(live).to_have_text("Training goes on: step 30.")
    expecting(slider).to_have_attribute("max", "2")
    assert curve.get_attribute("d").count("L") == points + 5
    assert slider.evaluate("(node) => node.kept && document.activeElement === node")
    # What is looked at stays: the step that is served.
    assert slider.input_value() == "1"
    page.keyboard.press("End")
    expecting(page).to_have_url(re.compile("checkpoint=30$"))
    settled(page, "training")


def test_play_goes_on_to_a_checkpoint_that_came_meanwhile(
    growing: tuple[Path, RunningServer], visit: Visit
) -> None:
    run, server = growing
    page = visit("training", url=f"{server.url}/?lang=en#training?prompt={PROMPT.replace(' ', '+')}")
    held: list[Any] | None = []
    page.route("**/explain/prompt", lambda route: route.continue_() if held is None else held.append(route))
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => document.body.classList.contains('busy')")
    save_as(run, 30)
    expecting(page.locator("#checkpoint-at")).to_have_attribute("max", "2")
    waiting, held = held, None
    for route in waiting:
        route.continue_()
    expecting(page).to_have_url(re.compile("checkpoint=30$"))
    settled(page, "training")
    expecting(page.get_by_role("button", name="Play")).to_be_enabled()
