"""Training: the run's log, and a slider over its checkpoints that redraws what the prompt shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gptwo
from page_visit import PROMPT, Visit, expecting, settled


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
