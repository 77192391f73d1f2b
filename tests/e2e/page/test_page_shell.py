"""The shell of the page: tokens and their surprisal as Python gives them, keys alone, both languages, both widths."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import gptwo
from page_visit import PANELS, PROMPT, Visit, settled, tokens_become

if TYPE_CHECKING:
    from gptwo.infer.api import LanguageModel

each_panel = pytest.mark.parametrize("panel", PANELS)


def test_the_tokens_and_their_surprisal_are_those_of_python(visit: Visit, model: LanguageModel) -> None:
    page = visit()
    found = gptwo.explain(model, PROMPT)
    tokens = page.locator("#strip .token")
    assert tokens.count() == len(found.tokens)
    for i, nats in enumerate(found.surprisal[1:], start=1):
        assert tokens.nth(i).get_attribute("aria-label").endswith(f"{nats:.2f} nats")
    last = page.locator("#chosen").inner_text()
    assert f"Token {len(found.tokens)} of {len(found.tokens)}" in last
    assert str(found.tokens[-1]) in last
    assert f"{found.surprisal[-1]:.3f} nats" in last
    badge = page.locator("#badge")
    assert "good" in badge.get_attribute("class")
    assert re.match(r"equals \w+ to \d", badge.inner_text())


def test_a_changed_prompt_is_explained(visit: Visit, model: LanguageModel) -> None:
    page = visit()
    page.fill("#prompt", "Năm nay 🌊\n")
    expected = gptwo.explain(model, "Năm nay 🌊\n").tokens
    tokens_become(page, len(expected))
    settled(page, "write")
    # A wave is four bytes that this vocabulary has no token for, and a newline breaks the line after its sign.
    assert "⟨F0⟩" in page.locator("#strip").inner_text()
    assert page.locator("#strip .token").last.text_content() == "↵\n"
    assert "prompt=N%C4%83m" in page.url


def test_what_the_server_refuses_is_said(visit: Visit) -> None:
    page = visit()
    page.fill("#prompt", "a store " * 100)
    page.wait_for_selector("#problem:not([hidden])")
    assert "64" in page.locator("#problem").inner_text()
    page.fill("#prompt", PROMPT)
    page.wait_for_selector("#problem", state="hidden")


def test_keys_alone_reach_every_token_and_panel(visit: Visit) -> None:
    page = visit()
    page.focus("#prompt")
    page.keyboard.press("Tab")
    count = page.locator("#strip .token").count()
    page.keyboard.press("Home")
    assert page.locator("#chosen").inner_text().startswith("Token 1 of")
    page.keyboard.press("ArrowRight")
    assert page.locator("#chosen").inner_text().startswith("Token 2 of")
    page.keyboard.press("End")
    assert page.locator("#chosen").inner_text().startswith(f"Token {count} of")
    page.focus("#tab-write")
    for panel in PANELS[1:]:
        page.keyboard.press("ArrowRight")
        settled(page, panel)
        assert page.locator("[role=tab][aria-selected=true]").get_attribute("id") == f"tab-{panel}"


def test_a_link_restores_what_was_seen(visit: Visit) -> None:
    first = visit("training", position=2, temperature=1.5, seed=7)
    assert first.locator("#chosen").inner_text().startswith("Token 3 of")
    again = visit("training", url=first.url)
    assert again.locator("#chosen").inner_text().startswith("Token 3 of")
    again.click("#tab-write")
    settled(again, "write")
    assert again.locator("[data-setting=temperature]").input_value() == "1.5"
    assert again.locator("[data-setting=seed]").input_value() == "7"
    again.go_back()
    settled(again, "training")


@pytest.mark.parametrize(
    ("link", "place", "settings"),
    [
        ({"position": -4}, "last", {}),
        ({"position": 1.5, "layer": -1, "head": -1}, "last", {}),
        ({"position": 999}, "last", {}),
        ({"position": 0, "tokens": ""}, "first", {}),
        (
            {"temperature": -5, "top_k": 1.5, "top_p": 9},
            "last",
            {"temperature": "0", "top_k": "2", "top_p": "1"},
        ),
        (
            {"temperature": 99, "min_p": -1, "seed": -1},
            "last",
            {"temperature": "2", "min_p": "0", "seed": "0"},
        ),
    ],
)
def test_what_a_link_gives_beyond_the_limits_is_brought_inside(
    visit: Visit, model: LanguageModel, link: dict[str, object], place: str, settings: dict[str, str]
) -> None:
    page = visit(**link)
    count = len(gptwo.explain(model, PROMPT).tokens)
    shown = f"Token {1 if place == 'first' else count} of {count}"
    assert page.locator("#chosen").inner_text().startswith(shown)
    assert page.locator(".problem:visible").count() == 0
    for name, value in settings.items():
        assert page.locator(f"[data-setting={name}]").input_value() == value
    page.click("#tab-attention")
    settled(page, "attention")
    assert page.locator(".problem:visible").count() == 0


@each_panel
def test_every_panel_in_both_languages_at_both_widths(visit: Visit, panel: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install -e '.[dev]' brings it"
    )
    for lang, width, dark in (("en", 1280, False), ("vi", 390, True)):
        page = visit(panel, lang=lang, width=width, dark=dark)
        assert page.locator("html").get_attribute("lang") == lang
        # What would scroll sideways is the page, and not a table inside it.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not re.findall(rf"\b{panel}\.[a-z_]+\b", page.locator("#panel").inner_text())
        found = axe.Axe().run(page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        assert not [(v["id"], [node["html"][:160] for node in v["nodes"][:3]]) for v in serious]
