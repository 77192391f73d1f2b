"""Layers: the logit lens, what each part adds to a logit, and the residual stream's lengths, as Python gives them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import gptwo
from page_visit import PROMPT, Visit, expecting, settled

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from gptwo.explanation.contributions import Contributions
    from gptwo.infer.api import LanguageModel

LONG = "The sea keeps what rivers bring, and gives back rain over the "


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", "."))


def share(text: str) -> float:
    """A probability as it was written: rounded, and below 0.01 % not told."""
    return 0.0 if text.startswith("<") else number(text.rstrip("%")) / 100


def cell(page: Page, layer: int, position: int) -> Locator:
    return page.locator(f".lens [data-place='{layer}.{position}']")


def terms(page: Page) -> dict[str, float]:
    """By name: what is added, and the sum."""
    facts = page.locator("[data-term]").all()
    return {
        fact.get_attribute("data-term"): number(fact.inner_text().split(" ")[-1].lstrip("= "))
        for fact in facts
    }


def is_shown(page: Page, found: Contributions) -> None:
    """The sum, its terms, and every square are those of Python."""
    shown = terms(page)
    expected = {
        "token": found.token,
        "position": found.position,
        "heads": found.heads.sum(),
        "mlps": found.mlps.sum(),
        "biases": found.biases,
        "total": found.logit,
    }
    assert shown == pytest.approx(expected, abs=6e-4)
    for layer, heads in enumerate(found.heads):
        for part, value in [*enumerate(heads), ("mlp", found.mlps[layer])]:
            name = page.locator(f".signed [data-place='{layer}.{part}']").get_attribute("aria-label")
            assert number(name.rsplit(" ", 1)[1]) == pytest.approx(value, abs=6e-4), (layer, part)


def test_the_lens_is_that_of_python(visit: Visit, model: LanguageModel) -> None:
    page = visit("layers")
    found = gptwo.explain(model, PROMPT)
    right = found.lens()
    layers, count = right.ids.shape[:2]
    assert page.locator(".lens .cell").count() == layers * count
    for layer in range(layers):
        for position in range(count):
            one = cell(page, layer, position)
            assert one.get_attribute("data-id") == str(right.ids[layer, position, 0])
            shown = one.locator("text").last.text_content()
            assert share(shown) == pytest.approx(right.probabilities[layer, position, 0], abs=6e-4)
            follows = position + 1 < count and right.ids[layer, position, 0] == found.tokens[position + 1]
            assert ("right" in one.get_attribute("class").split()) == follows


def test_the_parts_add_up_to_the_logit_that_python_gives(visit: Visit, model: LanguageModel) -> None:
    page = visit("layers")
    found = gptwo.explain(model, PROMPT)
    last = len(found.tokens) - 1
    is_shown(page, found.contributions(last, int(found.top.ids[last, 0])))
    # Another token, by keys alone.
    shown = [page.query_selector("[data-term=total]"), page.locator("[data-term=total]").inner_text()]
    page.focus(".parts select")
    page.keyboard.press("ArrowDown")
    expecting(page.locator(".parts select")).to_have_value(str(found.top.ids[last, 1]))
    page.wait_for_function("([node, text]) => !node.isConnected || node.textContent !== text", arg=shown)
    is_shown(page, found.contributions(last, int(found.top.ids[last, 1])))


def test_keys_alone_choose_a_square_of_the_lens_and_a_head(visit: Visit, model: LanguageModel) -> None:
    page = visit("layers", position=3)
    found = gptwo.explain(model, PROMPT)
    page.focus(".lens .cell[tabindex='0']")
    for key in ("ArrowUp", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    # One layer before the last, one position to the left; what is taken apart is the logit of its token after that.
    token = int(found.lens().ids[-2, 2, 0])
    expecting(page.locator("#chosen")).to_contain_text("Token 3 of")
    expecting(page.locator(".parts select")).to_have_value(str(token))
    is_shown(page, found.contributions(2, token))
    page.focus(".signed [tabindex='0']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    name = page.locator(".signed [data-place='1.1']").get_attribute("aria-label")
    expecting(page.locator(".parts .spoken")).to_have_text(name)
    page.keyboard.press("Enter")
    assert "layer=1" in page.url
    assert "head=1" in page.url


def test_the_lengths_are_those_of_python(visit: Visit, model: LanguageModel) -> None:
    page = visit("layers", position=2)
    norms = gptwo.explain(model, PROMPT).norms()
    said = page.locator(".panel-layers .readout").inner_text()
    shown = [number(value) for value in re.findall(r"([\d.]+) @", said)]
    right = [norms.residual[-1, 2], norms.attention[-1, 2], norms.mlp[-1, 2]]
    assert shown == pytest.approx(right, abs=6e-3)
    points = page.locator(".panel-layers .chart circle")
    assert points.count() == 3 * model.config.n_layer + 1


def test_a_long_prompt_scrolls_inside_its_card_and_is_there_whole(visit: Visit, model: LanguageModel) -> None:
    page = visit("layers", lang="vi", width=390, prompt=LONG)
    count = len(gptwo.explain(model, LONG).tokens)
    assert count > 32
    layers = model.config.n_layer + 1
    expecting(page.locator(".lens .cell")).to_have_count(layers * count)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.querySelector('.lens').scrollLeft") > 1000
    expecting(cell(page, 0, count - 1)).to_be_in_viewport()
    page.keyboard.press("Tab")
    page.focus("#strip [aria-selected=true]")
    page.keyboard.press("Home")
    expecting(cell(page, 0, 0)).to_be_in_viewport()
    assert "độ chệch" in page.locator(".sum").inner_text()


def test_a_changed_prompt_is_drawn_in_the_same_place(visit: Visit, model: LanguageModel) -> None:
    page = visit("layers")
    page.fill("#prompt", "The sea")
    found = gptwo.explain(model, "The sea")
    expecting(page.locator(".lens .cell")).to_have_count(found.lens().ids.size)
    settled(page, "layers")
    assert cell(page, 0, 0).get_attribute("data-id") == str(found.lens().ids[0, 0, 0])
    assert page.locator("[data-panel]").count() == 1
