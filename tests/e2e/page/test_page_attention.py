"""Attention: weights and what makes them, as Python gives them; and of a long prompt only what is seen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import gptwo
from page_visit import PROMPT, Visit, expecting, settled
from running_server import RunningServer, running_server, small_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from gptwo.explanation.explanation import Explanation
    from gptwo.infer.api import LanguageModel

MOST_BYTES = 5e6
"""Of a prompt of 1,024 tokens, with everything that its heads need."""


def at(page: Page, query: int, key: int) -> None:
    """Waits until the page is about this pair."""
    expecting(page.locator(".pair h2")).to_have_text(re.compile(rf"^Query {query + 1} .* → key {key + 1} "))
    page.wait_for_selector(".pair:not(.working)")


def drawn(page: Page) -> None:
    """Waits until what was asked for by a key or by scrolling is in the matrix."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.wait_for_selector(".matrix-window[aria-busy=false]")


def shown(page: Page, name: str) -> float:
    return float(page.locator(f"[data-number={name}]").inner_text().replace("−", "-"))


def near(weight: float) -> str:
    """What it may be shown as: the last digit may fall to either side."""
    return "|".join(sorted({f"{weight + by:.4f}" for by in (-5e-5, 0, 5e-5)})).join(["(?:", ")"])


def is_as_in_python(page: Page, found: Explanation, place: tuple[int, int], pair: tuple[int, int]) -> None:
    (layer, head), (query, key) = place, pair
    at(page, query, key)
    q, k = (found[f"blocks.{layer}.{name}"][head, i].astype(float) for name, i in (("q", query), ("k", key)))
    weight = found[f"blocks.{layer}.attention"][head, query, key]
    assert shown(page, "dot") == pytest.approx(q @ k, abs=6e-5)
    assert shown(page, "score") == pytest.approx(q @ k / np.sqrt(len(q)), abs=6e-5)
    assert shown(page, "weight") == pytest.approx(weight, abs=6e-5)
    expecting(page.locator(".matrix .said")).to_have_text(re.compile(rf"the weight {near(weight)}$"))
    entries = page.locator(".vector .said").all_inner_texts()
    expected = [q[0], k[0], q[0] * k[0], found[f"blocks.{layer}.v"][head, key, 0]]
    assert [float(text.rsplit(" ", 1)[1].replace("−", "-")) for text in entries] == pytest.approx(
        expected, abs=6e-5
    )


def test_weights_and_what_makes_them_are_those_of_python(visit: Visit, model: LanguageModel) -> None:
    page = visit("attention", layer=1, head=2, position=5, key=3)
    found = gptwo.explain(model, PROMPT)
    is_as_in_python(page, found, (1, 2), (5, 3))
    page.locator(".one-head").nth(1).click()
    expecting(page.locator(".zoomed h2")).to_have_text("Layer 0, head 1")
    is_as_in_python(page, found, (0, 1), (5, 3))
    # Another token, chosen above: the key that it looks at most.
    page.locator("#strip .token").nth(6).click()
    row = found["blocks.0.attention"][1, 6]
    is_as_in_python(page, found, (0, 1), (6, int(row.argmax())))
    strongest = np.sort(row)[::-1][:8]
    shares = [float(text.rstrip("%")) for text in page.locator(".looks td.bar").all_inner_texts()]
    assert shares == pytest.approx((100 * strongest).tolist(), abs=0.06)
    page.locator(".looks button").nth(4).click()
    is_as_in_python(page, found, (0, 1), (6, int(np.argsort(-row, kind="stable")[4])))


def test_the_weight_under_the_pointer_is_said(visit: Visit, model: LanguageModel) -> None:
    page = visit("attention")
    found = gptwo.explain(model, PROMPT)["blocks.0.attention"][0]
    canvas = page.locator(".matrix canvas")
    labels = float(page.locator(".matrix").get_attribute("data-labels") or "")
    cell = (page.evaluate("document.querySelector('.sheet').offsetHeight") - labels) // len(found)

    def point(query: int, key: int) -> None:
        canvas.hover(position={"x": labels + (key + 0.5) * cell, "y": labels + (query + 0.5) * cell})

    said = page.locator(".matrix .said")
    point(6, 2)
    expecting(said).to_have_text(re.compile(rf"^Query 7 .* key 3 .* {near(found[6, 2])}$"))
    point(2, 6)
    expecting(said).to_have_text(re.compile(r"^Query 3 .* does not see 7 "))
    point(6, 2)
    page.mouse.down()
    page.mouse.up()
    at(page, 6, 2)


def test_keys_alone_choose_heads_and_pairs(visit: Visit, model: LanguageModel) -> None:
    page = visit("attention", position=6, key=6)
    found = gptwo.explain(model, PROMPT)
    page.focus(".one-head[aria-pressed=true]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expecting(page.locator(".zoomed h2")).to_have_text("Layer 1, head 1")
    for _ in range(4):  # the picture's button, and three that zoom
        page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert "matrix-window" in page.evaluate("document.activeElement.className")
    page.keyboard.press("ArrowUp")  # the key may not be after the query, and goes with it
    is_as_in_python(page, found, (1, 1), (5, 5))
    page.keyboard.press("Home")
    is_as_in_python(page, found, (1, 1), (5, 0))
    page.keyboard.press("ArrowRight")
    is_as_in_python(page, found, (1, 1), (5, 1))
    width = "document.querySelector('.sheet').offsetHeight"
    before = page.evaluate(width)
    page.keyboard.press("+")
    assert page.evaluate(width) > before
    page.keyboard.press("0")
    assert page.evaluate(width) == before
    assert "key=1" in page.url


def test_in_vietnamese_on_a_narrow_screen(visit: Visit, model: LanguageModel) -> None:
    page = visit("attention", lang="vi", width=390, dark=True, position=5, key=3)
    weight = gptwo.explain(model, PROMPT)["blocks.0.attention"][0, 5, 3]
    said = page.locator(".matrix .said").inner_text()
    assert re.search(r"^Truy vấn 6 .* cho khóa 4 .* trọng số 0,\d{4}$", said)
    assert float(said[-6:].replace(",", ".")) == pytest.approx(weight, abs=6e-5)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    painted = "node => new Set(node.getContext('2d').getImageData(0, 0, node.width, node.height).data).size"
    for canvas in page.locator("#panel canvas").all():
        assert canvas.evaluate(painted) > 4


def test_a_saved_page_has_the_heads_the_matrix_and_the_pair(
    visit: Visit, browser: Browser, tmp_path: Path
) -> None:
    page = visit("attention", position=5, key=3, layer=1)
    weight = shown(page, "weight")
    page.click("#share")
    with page.expect_download() as downloading:
        page.locator("#share-dialog .choice button").nth(2).click()
    downloading.value.save_as(tmp_path / "saved.html")
    context = browser.new_context(offline=True, locale="en", viewport={"width": 1280, "height": 900})
    saved = context.new_page()
    said: list[str] = []
    saved.on("console", lambda message: said.append(message.text))
    saved.on("pageerror", lambda error: said.append(str(error)))
    saved.goto((tmp_path / "saved.html").as_uri())
    settled(saved, "attention")
    assert shown(saved, "weight") == weight
    picture = "document.querySelector('.matrix canvas').toDataURL()"
    assert saved.evaluate(picture) == page.evaluate(picture)
    assert saved.locator("#panel .problem:visible").count() == 0
    # Of another head there is the small picture, and of its pairs nothing.
    saved.locator(".one-head").nth(0).click()
    expecting(saved.locator(".matrix .note")).to_contain_text("saved page")
    expecting(saved.locator(".pair .problem")).to_be_visible()
    context.close()
    assert not said


def test_pictures_are_saved(visit: Visit, tmp_path: Path) -> None:
    page = visit("attention")
    for name in ("heads", "attention", "q"):
        with page.expect_download() as downloading:
            page.get_by_label(f"Save {name} as PNG").click()
        assert downloading.value.suggested_filename == f"gptwo-{name}.png"
        downloading.value.save_as(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def long_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A model with the layers, heads and context of GPT-2 small, and so with its transfer; narrow, and so quick."""
    folder = small_model(tmp_path_factory.mktemp("long") / "model", n_layer=12, n_head=12, n_embd=96)
    with running_server(folder, log=tmp_path_factory.mktemp("log") / "serve.log") as running:
        yield running
        assert "Traceback" not in running.said(), running.said()[-4000:]


def test_of_a_long_prompt_only_what_is_seen_is_fetched(browser: Browser, long_server: RunningServer) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en")
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    fetched: dict[str, int] = {}
    page.on("response", lambda got: fetched.update({got.url: int(got.headers["content-length"])}))
    tokens = ".".join(str(i % 250) for i in range(1024))
    page.goto(f"{long_server.url}/#attention?tokens={tokens}&position=700&key=5")
    page.set_default_timeout(60_000)
    settled(page, "attention")
    assert len(page.locator("#strip .token").all()) == 1024

    def tiles() -> set[str]:
        return {
            url.partition("/attention/")[2] for url in fetched if re.search(r"/attention/0/0\?.*size", url)
        }

    whole = tiles()
    assert whole
    assert len(whole) <= 16
    assert all("format=uint8" in tile for tile in whole)
    said_at = page.locator(".matrix .said")
    before = said_at.inner_text()
    # To where the weights can be read: those alone are fetched, as numbers.
    page.focus(".matrix-window")
    while page.evaluate("document.querySelector('.sheet').offsetHeight") < 30 * 1024:
        page.keyboard.press("+")
        drawn(page)
    close = {tile for tile in tiles() - whole if "format=float32" in tile}
    assert 1 <= len(close) <= 4
    assert any("rows=640:768&columns=0:128" in tile for tile in close)
    page.keyboard.press("0")
    page.keyboard.press("+")
    page.keyboard.press("+")
    window = page.locator(".matrix-window")
    reach = window.evaluate("node => node.scrollHeight - node.clientHeight")
    assert reach > 0
    for step in range(9):
        window.evaluate(f"node => node.scrollTo({step} * node.scrollWidth / 9, {step} * {reach} / 8)")
        drawn(page)
    rows = {int(first) for first in re.findall(r"rows=(\d+):", " ".join(tiles()))}
    assert max(rows) >= 896
    page.keyboard.press("ArrowDown")
    at(page, 701, 5)
    assert said_at.inner_text() != before
    assert sum(fetched.values()) < MOST_BYTES
    context.close()
    assert not said
