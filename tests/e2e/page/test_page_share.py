"""Sharing: the whole view in one file that needs no server, and pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from page_visit import PANELS, PROMPT, Visit, expecting, settled

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_a_saved_page_shows_every_panel_from_disk_without_a_network(
    visit: Visit, browser: Browser, tmp_path: Path
) -> None:
    page = visit(position=3)
    seen = {}
    page.click("#tab-whatif")
    settled(page, "whatif")
    page.fill(".second", "When John and Mary went to the")
    page.click("[data-place='0.1']")
    page.wait_for_selector(".results:not(.working) .continuation >> nth=1")
    page.locator(".panel-whatif .button").click()
    page.wait_for_selector(".heat svg")
    for panel in PANELS:
        page.click(f"#tab-{panel}")
        settled(page, panel)
        seen[panel] = page.locator("#panel").inner_text()
    page.click("#tab-write")
    settled(page, "write")
    page.click("#share")
    with page.expect_download() as downloading:
        page.locator("#share-dialog .choice button").nth(1).click()
    file = tmp_path / "saved.html"
    downloading.value.save_as(file)
    content = file.read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", content)

    context = browser.new_context(offline=True, locale="en", viewport={"width": 1280, "height": 900})
    saved = context.new_page()
    said: list[str] = []
    saved.on("console", lambda message: said.append(message.text))
    saved.on("pageerror", lambda error: said.append(str(error)))
    saved.goto(file.as_uri())
    settled(saved, "write")
    assert saved.input_value("#prompt") == PROMPT
    assert saved.locator("#chosen").inner_text().startswith("Token 4 of")
    for panel, text in seen.items():
        saved.click(f"#tab-{panel}")
        settled(saved, panel)
        shown = saved.locator("#panel").inner_text()
        assert saved.locator("#panel .problem").count() == 0, panel
        # The first numbers of the panel, in their order; what needs a server is not there.
        numbers = re.findall(r"\d+\.\d{2,}", text)
        if panel == "whatif":
            assert saved.locator("[data-place='0.1'][data-value=zero]").count() == 1
            assert saved.locator(".heat svg").count() == 1
            assert saved.locator(".results tbody tr").count() == 12
        assert set(re.findall(r"\d+\.\d{2,}", shown)) >= set(numbers), panel
    saved.click("#tab-write")
    settled(saved, "write")
    saved.locator("#strip .token").nth(1).click()
    assert "not in the saved page" in saved.locator(".distribution .problem").inner_text()
    assert saved.locator(".pipeline").count() == 0
    saved.locator("#strip .token").nth(3).click()
    expecting(saved.locator(".pipeline")).to_have_count(1)
    saved.click("#tab-whatif")
    settled(saved, "whatif")
    saved.locator("#strip .token").nth(1).click()
    expecting(saved.locator(".panel-whatif .problem")).to_have_count(2)
    saved.click("[data-lang=vi]")
    settled(saved, "whatif")
    assert saved.locator("html").get_attribute("lang") == "vi"
    context.close()
    assert not said


def test_a_picture_is_saved_as_svg_and_png(visit: Visit, tmp_path: Path) -> None:
    page = visit("training", dark=True)
    for kind, begins in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with page.expect_download() as downloading:
            page.locator(".panel-training .save button", has_text=kind).first.click()
        assert downloading.value.suggested_filename == f"gptwo-loss.{kind.lower()}"
        downloading.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().startswith(begins)
