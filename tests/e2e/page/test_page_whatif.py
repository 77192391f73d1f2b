"""What if: what a switched-off part, or one from a second prompt, changes, as Python gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import gptwo
from gptwo.infer.sampling import log_probabilities
from page_visit import PROMPT, Visit, expecting, settled

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from gptwo.infer.api import LanguageModel

OTHER = "When John and Mary went to the"


def changes(page: Page) -> dict[str, tuple[str, str]]:
    """By token: the probability after, the change of the logit."""
    rows = page.locator(".results tbody tr")
    found = {}
    for row in rows.all():
        cells = row.locator("th, td").all_inner_texts()
        found[cells[0]] = (cells[2], cells[4])
    return found


def expected(model: LanguageModel, **edits: Any) -> dict[str, tuple[str, str]]:
    before, after = gptwo.explain(model, PROMPT).logits[-1], gptwo.explain(model, PROMPT, **edits).logits[-1]
    everything = np.arange(len(after))
    p = np.exp(log_probabilities(after[None], everything[None]))[0]
    found = {}
    for token in everything:
        name = model.tokenizer.decode([int(token)]).replace(" ", "·")
        share = f"{100 * p[token]:.1f}%" if p[token] >= 0.1 else f"{100 * p[token]:.2f}%"
        found[name] = (share, f"{after[token] - before[token]:+.2f}".replace("-", "−"))
    return found


@pytest.mark.parametrize(
    ("brush", "edits"),
    [
        (0, {"ablate": [(0, 1), (1, "mlp")]}),
        (1, {"ablate": [(0, 1, "mean"), (1, "mlp", "mean")]}),
        (2, {"patch": (OTHER, [(0, 1), (1, "mlp")])}),
    ],
    ids=["zero", "mean", "patch"],
)
def test_what_changes_is_what_python_gives(
    visit: Visit, model: LanguageModel, brush: int, edits: dict[str, Any]
) -> None:
    page = visit("whatif")
    page.fill(".second", OTHER)
    page.locator(".panel-whatif .segments button").nth(brush).click()
    page.focus("[data-place='0.0']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    page.keyboard.press("Space")
    page.wait_for_selector(".results:not(.working) .continuation >> nth=1")
    shown, right = changes(page), expected(model, **edits)
    assert len(shown) == 12
    unlike = {token: (pair, right[token]) for token, pair in shown.items() if not alike(pair, right[token])}
    assert not unlike


def alike(shown: tuple[str, str], right: tuple[str, str]) -> bool:
    """Equal up to the last digit shown: what is rounded may fall to either side."""

    def number(text: str) -> float:
        return float(text.strip("%<+").replace("−", "-"))

    return (
        abs(number(shown[0]) - number(right[0])) < 0.11 and abs(number(shown[1]) - number(right[1])) < 0.011
    )


def test_the_heat_map_is_what_python_gives_and_its_squares_are_patched(
    visit: Visit, model: LanguageModel
) -> None:
    page = visit("whatif")
    page.fill(".second", OTHER)
    page.click(".panel-whatif .button")
    page.wait_for_selector(".heat svg")
    token = int(page.input_value(".panel-whatif select"))
    before = gptwo.explain(model, PROMPT).logits[-1, token]
    titles = page.locator(".heat rect title").all_text_contents()
    for layer in range(model.config.n_layer):
        for head in range(model.config.n_head):
            patched = gptwo.explain(model, PROMPT, patch=(OTHER, [(layer, head)])).logits[-1, token]
            said = titles[layer * model.config.n_head + head]
            assert said.startswith(f"Layer {layer}, head {head}: ")
            change = float(said.rsplit(" ", 1)[1].replace("−", "-"))
            assert change == pytest.approx(patched - before, abs=6e-4)
    page.locator(".heat rect:not(.ground)").nth(1).click()
    page.wait_for_selector("[data-place='0.1'][data-value=patch]")
    # And by keys alone: the head below it.
    page.focus(".heat rect[role=button][tabindex='0']")
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("[data-place='1.1'][data-value=patch]")


def test_prompts_of_two_lengths_are_refused_in_words(visit: Visit) -> None:
    page = visit("whatif")
    page.fill(".second", "The")
    page.locator(".panel-whatif .segments button").nth(2).click()
    page.click("[data-place='0.0']")
    said = page.wait_for_selector(".results .problem").inner_text()
    assert "as many as the first" in said
    settled(page, "whatif")


def test_a_link_and_a_reload_keep_what_is_changed(visit: Visit) -> None:
    page = visit("whatif")
    page.fill(".second", OTHER)
    page.click("[data-place='0.1']")
    page.locator(".panel-whatif .segments button").nth(2).click()
    page.click("[data-place='1.mlp']")
    page.wait_for_selector(".results:not(.working) .continuation >> nth=1")
    shown = changes(page)
    assert "edits=0.1z%2C1.mlpp&other=" in page.url
    page.reload()
    settled(page, "whatif")
    assert page.input_value(".second") == OTHER
    assert changes(page) == shown
    elsewhere = visit("whatif", edits="0.1z,7.0z,0.99m,1.mlpp,rubbish", other=OTHER)
    assert elsewhere.locator(".switch[aria-pressed=true]").count() == 2
    assert changes(elsewhere) == shown


def test_before_anything_is_changed_stands_what_the_model_says(visit: Visit, model: LanguageModel) -> None:
    page = visit("whatif")
    found = gptwo.explain(model, PROMPT)
    rows = page.locator(".results tbody tr")
    names = [model.tokenizer.decode([int(token)]).replace(" ", "·") for token in found.top.ids[-1][:12]]
    assert rows.locator("th").all_inner_texts() == names
    for shown, logit in zip(rows.locator(".optional").all_inner_texts(), found.top.logits[-1], strict=False):
        assert float(shown.replace("−", "-")) == pytest.approx(logit, abs=0.011)
    assert "Nothing is changed yet" in page.locator(".results").inner_text()
    page.locator(".panel-whatif .segments button").nth(2).click()
    page.click("[data-place='0.0']")
    expecting(page.locator(".results .note")).to_contain_text("Write a second prompt")
    assert rows.locator("th").all_inner_texts() == names
    page.fill(".second", OTHER)
    page.focus(".panel-whatif .button")
    expecting(page.locator(".results .note")).to_have_count(0)


def test_a_link_and_a_reload_keep_the_heat_map(visit: Visit) -> None:
    page = visit("whatif")
    page.fill(".second", OTHER)
    page.locator(".panel-whatif select").select_option(index=2)
    token = page.input_value(".panel-whatif select")
    page.click(".panel-whatif .button")
    page.wait_for_selector(".heat svg")
    titles = page.locator(".heat rect title").all_text_contents()
    assert f"heat={token}" in page.url
    page.reload()
    page.wait_for_selector(".heat svg")
    assert page.input_value(".panel-whatif select") == token
    assert page.locator(".heat rect title").all_text_contents() == titles
    # Of another position it says nothing, and the link is of what is seen.
    page.locator("#strip .token").nth(1).click()
    expecting(page.locator(".heat svg")).to_have_count(0)
    assert "heat=" not in page.url
    without = visit("whatif", heat=token)
    assert without.locator(".heat svg").count() == 0
    assert "heat=" not in without.url


def test_a_link_s_heat_map_is_not_asked_for_of_another_prompt(visit: Visit) -> None:
    page = visit("write", other=OTHER, heat=3)
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.url) if "/explain/heatmap" in request.url else None
    )
    assert "heat=3" in page.url
    page.fill("#prompt", PROMPT.replace("Mary", "Anna"))
    page.wait_for_url(lambda url: "Anna" in url and "heat=" not in url)
    page.click("#tab-whatif")
    settled(page, "whatif")
    assert page.locator(".heat svg").count() == 0
    assert asked == []


def test_switches_grow_where_there_are_few(visit: Visit) -> None:
    page = visit("whatif")
    box = page.locator("[data-place='0.0']").bounding_box()
    assert box is not None
    assert box["width"] == box["height"] == 36


def test_the_heat_map_of_other_prompts_is_taken_away(visit: Visit) -> None:
    page = visit("whatif")
    page.fill(".second", OTHER)
    page.click(".panel-whatif .button")
    page.wait_for_selector(".heat svg")
    page.fill(".second", OTHER.replace("Mary", "John"))
    page.focus(".panel-whatif .button")
    expecting(page.locator(".heat svg")).to_have_count(0)
    page.fill(".second", OTHER)
    page.focus(".panel-whatif .button")
    expecting(page.locator(".heat svg")).to_have_count(1)
    page.fill(".second", "The")
    page.click(".panel-whatif .button")
    expecting(page.locator(".panel-whatif .spoken")).to_contain_text("as many as the first")
    assert page.locator(".heat svg").count() == 0


def test_the_continuation_says_that_it_is_written(visit: Visit) -> None:
    page = visit("whatif")
    held: list[Any] = []
    page.route("**/explain/continue", lambda route: held.append(route))  # noqa: PLW0108
    page.click("[data-place='0.0']")
    expecting(page.locator(".going-on [role=status]")).to_have_text(
        "Writing 20 tokens before and after the change…"
    )
    assert held[0].request.post_data_json["max_tokens"] == 20
    held[0].continue_()
    page.wait_for_selector(".going-on .continuation >> nth=1")
    assert page.locator(".going-on [role=status]").count() == 0
