"""The equations: each step's shape, tensor and worked entry, as Python gives them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import gptwo
from page_visit import PATIENCE_MS, PROMPT, Visit, expecting, settled

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

    from gptwo.explanation.explanation import Explanation
    from gptwo.infer.api import LanguageModel
    from running_server import RunningServer

LAYER, HEAD = 1, 2
# By step: the tensor that its entry is of, whether it has heads, and what its columns are.
TENSORS = {
    "embedding": ("embedding", False, "d"),
    "input": ("input", False, "d"),
    "attention_norm": ("attention_norm", False, "d"),
    "qkv": ("q", True, "j"),
    "scores": ("scores", True, "s"),
    "mask": ("scores", True, "s"),
    "softmax": ("attention", True, "s"),
    "heads": ("heads", True, "j"),
    "attention_output": ("attention_output", False, "d"),
    "middle": ("middle", False, "d"),
    "mlp_norm": ("mlp_norm", False, "d"),
    "up": ("mlp_up", False, "f"),
    "gelu": ("mlp_gelu", False, "f"),
    "down": ("mlp_output", False, "d"),
    "output": ("output", False, "d"),
    "final_norm": ("final_norm", False, "d"),
    "logits": ("logits", False, "v"),
}
EVERY_STEP = [*TENSORS, "probabilities"]
ENDS = "embedding", "final_norm", "logits"


def tensor_of(found: Explanation, step: str) -> np.ndarray[Any, Any]:
    name, has_heads, _ = TENSORS[step]
    array = found[name if name in ENDS else f"blocks.{LAYER}.{name}"]
    return array[HEAD] if has_heads else array


def column_of(found: Explanation, step: str) -> int:
    """Where the entry stands before another is chosen: in the middle, on the diagonal, at the most probable token."""
    T = len(found.tokens)
    array, columns = tensor_of(found, step), TENSORS[step][2]
    return {"s": T - 1, "v": int(found.logits[-1].argmax())}.get(columns, array.shape[1] // 2)


def drawn(page: Page, step: str) -> Locator:
    """The card of the step, scrolled to, when it shows its numbers."""
    card = page.locator(f"#step-{step}")
    card.scroll_into_view_if_needed()
    page.wait_for_selector(f"#step-{step}[data-drawn]")
    return card


def result(card: Locator) -> float:
    return float(card.locator(".result").get_attribute("data-result"))


def in_words(number: float) -> str:
    """With four digits that count, as the page writes it; of a very small one the two before its power of ten."""
    if number == 0 or abs(number) < 1e-3:
        return "0" if number == 0 else f"{number:.1e}".partition("e")[0].replace("-", "−")
    digits = max(0, 3 - math.floor(math.log10(abs(number))))
    return f"{number:.{digits}f}".replace("-", "−")


def test_every_step_shows_the_shapes_and_numbers_of_python(visit: Visit, model: LanguageModel) -> None:
    page = visit("equations", layer=LAYER, head=HEAD)
    found = gptwo.explain(model, PROMPT)
    assert page.locator(".step:not([hidden])").evaluate_all(
        "cards => cards.map(card => card.id)"
    ) == [f"step-{step}" for step in EVERY_STEP]  # fmt: skip
    for step in TENSORS:
        card = drawn(page, step)
        array = tensor_of(found, step)
        shape = card.locator(".shape b").inner_text()
        assert shape.endswith("×".join(map(str, array.shape))), step
        value = float(array[-1, column_of(found, step)])
        assert result(card) == pytest.approx(value, rel=1e-4, abs=1e-6), step
        assert in_words(result(card)) in (card.locator(".result").text_content() or ""), step
        said = card.locator(".said").nth(0 if step == "qkv" else -1).inner_text()
        assert said.endswith(f", {column_of(found, step)}] = {card_number(said)}"), step
        assert card_number(said)[:4] == in_words(value)[:4], step


def card_number(said: str) -> str:
    return said.rpartition(" = ")[2]


def test_the_products_of_an_entry_add_up_to_it(visit: Visit, model: LanguageModel) -> None:
    page = visit("equations", layer=LAYER, head=HEAD)
    found = gptwo.explain(model, PROMPT)
    card = drawn(page, "scores")
    q_K, k_K = found[f"blocks.{LAYER}.q"][HEAD, -1], found[f"blocks.{LAYER}.k"][HEAD, -1]
    labels = [
        int(text.rpartition("=")[2]) for text in card.locator(".term:not(.rest) small").all_inner_texts()
    ]
    assert labels == sorted(np.argsort(-np.abs(q_K * k_K))[:12])
    terms = card.locator(".term")
    for i, label in enumerate(labels):
        _, factors, product = terms.nth(i).inner_text().split("\n")
        assert number(product) == pytest.approx(q_K[label] * k_K[label], rel=2e-3, abs=1e-4)
        assert number(factors.split(" × ")[0]) == pytest.approx(q_K[label], rel=2e-3, abs=1e-4)
    total = sum(number(text) for text in card.locator(".term b").all_inner_texts())
    assert total / math.sqrt(len(q_K)) == pytest.approx(result(card), rel=1e-2, abs=1e-3)


def number(text: str) -> float:
    return float(text.strip("()").replace("−", "-"))


def test_a_tensor_is_drawn_warm_where_it_is_positive_and_cool_where_it_is_not(
    visit: Visit, model: LanguageModel
) -> None:
    page = visit("equations", layer=LAYER, head=HEAD)
    values = gptwo.explain(model, PROMPT)[f"blocks.{LAYER}.k"][HEAD]
    canvas = drawn(page, "qkv").locator("canvas").nth(1)
    pixels = canvas.evaluate(
        """(canvas, [rows, columns]) => {
          const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const [across, down] = [canvas.width / columns, canvas.height / rows];
          return Array.from({length: rows * columns}, (_, i) => {
            const at = 4 * (Math.floor((Math.floor(i / columns) + 0.5) * down) * canvas.width
                            + Math.floor((i % columns + 0.5) * across));
            return [data[at], data[at + 2]];
          });
        }""",
        list(values.shape),
    )
    red_less_blue = np.array([red - blue for red, blue in pixels]).reshape(values.shape)
    clear = np.abs(values) > 0.2 * np.abs(values).max()
    assert clear.sum() > 20
    assert (np.sign(red_less_blue) == np.sign(values))[clear].all()


def test_keys_alone_choose_an_entry_a_block_and_a_head(visit: Visit, model: LanguageModel) -> None:
    page = visit("equations")
    found = gptwo.explain(model, PROMPT)
    T = len(found.tokens)
    page.focus("[data-choose=layer]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.wait_for_url(re.compile(r"layer=1&head=2$"))
    card = drawn(page, "softmax")
    card.locator(".cells").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    fields = card.locator(".indices input")
    expecting(fields.nth(1)).to_have_value("1")
    expecting(fields.nth(0)).to_have_value(str(T - 3))
    weights = found[f"blocks.{LAYER}.attention"][HEAD]
    shows(card, weights[T - 3, 1])
    assert page.locator("#chosen").inner_text().startswith(f"Token {T - 2} of")
    assert page.evaluate("document.activeElement.className") == "cells"
    fields.nth(1).fill("3")
    fields.nth(1).press("Enter")
    shows(card, weights[T - 3, 3])
    # Every step follows: the same row, and the keys' row is the token that is seen.
    qkv = drawn(page, "qkv")
    qkv.locator(".cells").nth(1).focus()
    page.keyboard.press("Home")
    shows(qkv, found[f"blocks.{LAYER}.k"][HEAD][3, 0])


def shows(card: Locator, value: float) -> None:
    """Waits until the entry has this value in the tensor."""
    expecting(card.locator(".result")).to_contain_text(in_words(value)[:5])
    assert result(card) == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_what_a_token_does_not_see_is_said(visit: Visit) -> None:
    page = visit("equations", position=2)
    for step, ending in (("mask", "∞"), ("softmax", "0")):
        card = drawn(page, step)
        card.locator(".cells").focus()
        page.keyboard.press("End")
        expecting(card.locator(".entry .note")).to_contain_text("does not see")
        assert (card.locator(".result").text_content() or "").endswith(ending)


def test_a_click_in_the_heads_side_by_side_chooses_the_head(visit: Visit, model: LanguageModel) -> None:
    page = visit("equations", layer=LAYER)
    found = gptwo.explain(model, PROMPT)
    card = drawn(page, "attention_output")
    cells = card.locator(".cells").first
    box = cells.bounding_box()
    T, D = len(found.tokens), model.config.n_embd
    cells.click(position={"x": box["width"] * (37 + 0.5) / D, "y": box["height"] * (1.5 / T)})
    expecting(page.locator("[data-choose=head]")).to_have_value(str(37 // model.config.head_width))
    shows(card, found[f"blocks.{LAYER}.heads"][37 // 16, 1, 37 % 16])


def test_the_next_token_s_share_is_worked_out(visit: Visit, model: LanguageModel) -> None:
    page = visit("equations")
    logits = gptwo.explain(model, PROMPT).logits[-1].astype(np.float64)
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    order = np.argsort(-logits, kind="stable")[:20]
    card = drawn(page, "probabilities")
    assert card.locator(".share").evaluate_all("all => all.map(one => Number(one.dataset.token))") == list(
        order
    )
    card.locator(".share").first.focus()
    page.keyboard.press("ArrowRight")
    expecting(card.locator(".share").nth(1)).to_have_attribute("aria-pressed", "true")
    shows(card, p[order[1]])
    assert card.locator(".indices input").nth(1).input_value() == str(order[1])


def test_it_fits_a_narrow_screen_in_vietnamese(visit: Visit) -> None:
    page = visit("equations", lang="vi", width=390, dark=True, layer=LAYER, head=HEAD)
    for step in EVERY_STEP:
        card = drawn(page, step)
        assert "equations." not in card.inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, step
        outside = card.evaluate(
            """card => [...card.querySelectorAll("math")].filter(math =>
                 math.getBoundingClientRect().right > card.getBoundingClientRect().right).length"""
        )
        assert outside == 0, step
    assert re.search(r"\d,\d{3}", page.locator("#step-scores .term").first.inner_text())


def test_a_saved_page_has_every_step_with_the_chosen_entry(
    visit: Visit, browser: Browser, model: LanguageModel, tmp_path: Path
) -> None:
    page = visit("equations", layer=LAYER, head=HEAD, position=4)
    found = gptwo.explain(model, PROMPT)
    card = drawn(page, "up")
    card.locator(".indices input").nth(1).fill("7")
    card.locator(".indices input").nth(1).press("Enter")
    shows(card, found[f"blocks.{LAYER}.mlp_up"][4, 7])
    page.click("#share")
    with page.expect_download() as downloading:
        page.locator("#share-dialog .choice button").nth(1).click()
    file = tmp_path / "saved.html"
    downloading.value.save_as(file)

    context = browser.new_context(offline=True, locale="en", viewport={"width": 1280, "height": 900})
    saved = context.new_page()
    saved.set_default_timeout(PATIENCE_MS)
    saved.goto(file.as_uri())
    settled(saved, "equations")
    for step in EVERY_STEP:
        drawn(saved, step)
    assert result(saved.locator("#step-up")) == pytest.approx(found[f"blocks.{LAYER}.mlp_up"][4, 7], rel=1e-4)
    assert result(saved.locator("#step-gelu")) == pytest.approx(
        found[f"blocks.{LAYER}.mlp_gelu"][4, 7], rel=1e-4
    )
    # Another entry is not in the file, and that is said.
    saved.locator("#step-up .indices input").nth(1).fill("8")
    saved.locator("#step-up .indices input").nth(1).press("Enter")
    expecting(saved.locator("#step-up")).to_contain_text("not in the saved page")
    context.close()


def test_logits_of_some_tokens_alone_can_be_asked_for(
    page_server: RunningServer, model: LanguageModel
) -> None:
    root = f"/explain/prompt/{page_server.answer('/explain/prompt', {'prompt': PROMPT})['id']}/tensor"
    reply = page_server.ask(f"{root}?name=logits&tokens=9,3,4&rows=1:3")
    assert (reply.status, reply.headers["x-shape"]) == (200, "2,3")
    expected = gptwo.explain(model, PROMPT).logits[1:3, [9, 3, 4]]
    np.testing.assert_allclose(np.frombuffer(reply.body, "<f4").reshape(2, 3), expected, rtol=1e-5, atol=1e-5)
    for query, said in (
        ("name=logits&tokens=9,320", "320"),
        ("name=embedding&tokens=9", "logits"),
        ("name=logits&tokens=a", "tokens"),
    ):
        refused = page_server.ask(f"{root}?{query}")
        assert refused.status == 400, query
        assert said in refused.error()["message"]


@pytest.mark.parametrize("layer", [0, LAYER])
def test_the_steps_that_are_shown_are_numbered_without_a_gap(visit: Visit, layer: int) -> None:
    page = visit("equations", layer=layer)
    places = page.locator(".step:visible .place").all_inner_texts()
    assert places == [str(i + 1) for i in range(len(places))]
    assert len(places) == page.locator(".step").count() - (layer == 0)
