"""Where the time goes: costs as Python has them, times that add up, and what they are held against."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gptwo
from gptwo.costs import cost_table, forward_operations
from page_visit import PATIENCE_MS, PROMPT, Visit, expecting, settled

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

    from gptwo.infer.api import LanguageModel

COLUMNS = {"us": 1, "flops": 5, "bytes": 6, "parameters": 7}


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", "").split("\u00a0")[0].rstrip("% µs"))


def steps(page: Page) -> dict[str, dict[str, float]]:
    """By name: the µs shown, and the exact costs, which stand behind the rounded ones."""
    rows: list[list[Any]] = page.eval_on_selector_all(
        ".steps tbody tr",
        "rows => rows.map(row => [row.dataset.step, ...[...row.cells].map(one => one.title || one.innerText)])",
    )
    return {name: {key: number(cells[at]) for key, at in COLUMNS.items()} for name, *cells in rows}


def said(page: Page, key: str) -> float:
    return number(page.locator(f"[data-sum='{key}']").inner_text())


def press(page: Page, name: str) -> None:
    """A button of the steps, by keys alone; it keeps the focus though all is drawn anew."""
    page.focus(f".panel-time [data-value={name}]")
    page.keyboard.press("Enter")
    expecting(page.locator(f".panel-time [data-value={name}][aria-pressed=true]")).to_be_focused()


@pytest.mark.parametrize("which", ["prefill", "decode"])
def test_every_step_costs_what_the_costs_room_says(visit: Visit, model: LanguageModel, which: str) -> None:
    page = visit("time")
    count = len(gptwo.explain(model, PROMPT).tokens)
    tokens, past = (count, 0) if which == "prefill" else (1, count + 8)
    press(page, which)
    press(page, "by_layer")
    found = steps(page)
    right = {
        operation.name: operation
        for operation in forward_operations(model.config, batch=1, tokens=tokens, past=past, last_only=True)
    }
    assert len(found) == 7 * model.config.n_layer + 4
    # The steps of the first block that the engine computes as the paper has them.
    names = ["attention_norm", "attention.qkv", "attention.output", "mlp_norm", "mlp.down"]
    for name in ("embedding", "head", *(f"blocks.0.{part}" for part in names)):
        one = right[name]
        shown = found[name]
        assert shown["parameters"] == one.parameters, name
        assert shown["flops"] == one.flops, name
        assert shown["bytes"] == one.weight_bytes + one.activation_bytes + one.kv_bytes, name
    attention = [right[f"blocks.0.attention.{part}"] for part in ("scores", "softmax", "mix")]
    assert found["blocks.0.attention"]["flops"] == sum(one.flops for one in attention)
    assert sum(step["parameters"] for step in found.values()) == cost_table(model.config).parameters


@pytest.mark.parametrize("which", ["prefill", "decode"])
def test_the_times_of_the_steps_are_the_sum_that_stands_beside_the_whole(visit: Visit, which: str) -> None:
    page = visit("time")
    press(page, which)
    together = steps(page)
    press(page, "by_layer")
    each = steps(page)
    total = said(page, f"{which}.sum")
    assert total > 0
    # Each is rounded to a tenth.
    for rows in (together, each):
        assert sum(step["us"] for step in rows.values()) == pytest.approx(total, abs=0.5 + 0.05 * len(rows))
    whole = said(page, f"{which}.forward")
    assert said(page, f"{which}.difference") == pytest.approx(
        100 * (total / whole - 1), abs=0.06 + 100 / whole
    )
    widths = page.eval_on_selector_all(
        ".time-picture[role=img] >> nth=0 >> rect",
        "nodes => nodes.map(node => Number(node.getAttribute('width')))",
    )
    assert len(widths) == len(each)


def test_the_rooflines_points_are_flops_over_bytes_and_over_time(visit: Visit) -> None:
    page = visit("time")
    for which, first in (("prefill", 0), ("decode", 6)):
        press(page, which)
        products = [(name, step) for name, step in steps(page).items() if step["flops"]]
        for i, (name, step) in enumerate(products):
            cells = page.locator(".points tbody tr").nth(first + i).locator("th, td").all_inner_texts()
            assert cells[0].endswith(name)
            assert number(cells[1]) == pytest.approx(step["flops"] / step["bytes"], abs=6e-3)
            size = {"k": 1e3, "M": 1e6, "G": 1e9}[cells[2].split("\u00a0")[1][0]]
            # The µs are rounded to a tenth, and a small step takes less than one; the speed has three digits.
            slowest, fastest = (step["flops"] / (step["us"] + off) * 1e6 for off in (0.05, -0.05))
            assert 0.99 * slowest <= number(cells[2]) * size <= 1.01 * fastest
    assert page.locator(".time-picture .point").count() == 12
    assert page.locator(".time-picture .roof").count() == 1


def test_keys_alone_ask_for_fewer_tokens_and_measure_again(visit: Visit) -> None:
    page = visit("time")
    rows = page.locator(".time-picture .input")
    assert rows.count() == 16
    page.focus(".panel-time .controls select")
    page.keyboard.press("Home")
    expecting(rows).to_have_count(4)
    before = page.query_selector(".panel-time .steps")
    page.focus(".panel-time .button")
    page.keyboard.press("Enter")
    page.wait_for_function("node => !node.isConnected", arg=before)
    expecting(rows).to_have_count(4)
    # What a token's time is made of is no more than the whole of it.
    parts = [number(text.split(" ")[-2]) for text in page.locator(".means .fact").all_inner_texts()]
    assert sum(parts[1:]) == pytest.approx(parts[0], abs=0.3)


def test_another_prompt_is_measured(visit: Visit) -> None:
    page = visit("time", lang="vi", width=390)
    head = page.locator(".panel-time .whole thead th").first
    before = head.inner_text()
    page.fill("#prompt", "The sea")
    expecting(head).not_to_have_text(before)
    settled(page, "time")
    assert "cùng lúc" in head.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_engine_that_cannot_be_looked_into_shows_what_there_is(visit: Visit) -> None:
    page = visit("write")

    def fused(route: Route) -> None:
        reply = route.fetch(timeout=PATIENCE_MS)
        body = reply.json()
        body["decode"] = None
        body["timeline"] = [
            {"token": one["token"], "us": one["us"], "model_us": one["us"] - 1, "sampling_us": 1.0}
            for one in body["timeline"]
        ]
        route.fulfill(response=reply, json=body)

    page.route("**/explain/time", fused)
    page.click("#tab-time")
    settled(page, "time")
    assert page.locator(".panel-time .whole thead th").count() == 1
    assert page.locator(".panel-time [data-value=decode]").count() == 0
    assert page.locator(".panel-time .problem").count() == 0
    assert page.locator(".time-picture .of-model").count() == 16
    assert "model" in page.locator(".means").inner_text()


@pytest.mark.parametrize(
    ("lang", "width", "words"), [("en", 1280, "The machine was busy"), ("vi", 390, "Máy đang bận")]
)
def test_a_sum_that_is_not_the_whole_is_marked(visit: Visit, lang: str, width: int, words: str) -> None:
    page = visit("write", lang=lang, width=width)
    is_busy = True

    def disturbed(route: Route) -> None:
        reply = route.fetch(timeout=PATIENCE_MS)
        body = reply.json()
        for name in ("prefill", "decode"):
            body[name]["agrees"] = not (is_busy and name == "prefill")
        route.fulfill(response=reply, json=body)

    page.route("**/explain/time", disturbed)
    page.click("#tab-time")
    settled(page, "time")
    assert words in page.locator(".panel-time .disturbed").inner_text()
    assert page.locator(".panel-time td.bad").count() == 1
    assert page.locator("[data-sum='prefill.difference'].bad").count() == 1
    is_busy = False
    page.click(".panel-time .button")
    expecting(page.locator(".panel-time .disturbed")).to_have_count(0)
    assert page.locator(".panel-time td.bad").count() == 0


def test_under_another_checkpoint_it_says_that_the_served_one_is_timed(visit: Visit) -> None:
    page = visit("time")
    note = page.locator(".panel-time .elsewhere")
    assert note.count() == 0
    page.focus("#checkpoint-at")
    page.keyboard.press("Home")
    expecting(note).to_contain_text("checkpoint 10;")


def test_a_saved_page_has_the_measurement_that_was_seen(
    visit: Visit, browser: Browser, tmp_path: Path
) -> None:
    page = visit("time")
    page.select_option(".panel-time .controls select", "4")
    expecting(page.locator(".time-picture .input")).to_have_count(4)
    seen = page.locator(".panel-time .whole").inner_text()
    page.click("#share")
    with page.expect_download() as downloading:
        page.locator("#share-dialog .choice button").nth(2).click()
    downloading.value.save_as(tmp_path / "saved.html")
    context = browser.new_context(offline=True, locale="en")
    saved = context.new_page()
    saved.goto((tmp_path / "saved.html").as_uri())
    settled(saved, "time")
    assert saved.locator(".panel-time .whole").inner_text() == seen
    assert saved.locator(".time-picture .input").count() == 4
    context.close()
