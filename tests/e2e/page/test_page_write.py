"""Write: probabilities, the stages of sampling and the text written, as Python gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import gptwo
from gptwo.infer.policy import SamplingPolicy
from gptwo.infer.sampling import choose, log_probabilities
from page_visit import PROMPT, Visit, expecting, settled, tokens_become

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from gptwo.infer.api import LanguageModel

# What the page begins with.
SETTINGS: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}


def shown(p: float) -> str:
    return f"{100 * p:.1f}%" if p >= 0.1 else f"{100 * p:.2f}%"


def written(page: Page) -> None:
    """Waits until nothing more is written, and what was is explained."""
    expecting(page.locator(".go")).to_have_text("Write on")
    settled(page, "write")


def column(page: Page, number: int) -> list[str]:
    return page.locator(f".pipeline tbody tr > :nth-child({number})").all_inner_texts()


def test_the_most_probable_tokens_and_the_entropy_are_those_of_python(
    visit: Visit, model: LanguageModel
) -> None:
    page = visit()
    logits = gptwo.explain(model, PROMPT).logits[-1]
    order = np.argsort(-logits, kind="stable")[:20]
    p = np.exp(log_probabilities(logits[None], order[None]))[0]
    assert column(page, 2) == [str(token) for token in order]
    assert column(page, 3) == [f"{z:.2f}".replace("-", "−") for z in logits[order]]
    assert column(page, 4) == [shown(share) for share in p]
    everything = np.exp(log_probabilities(logits[None], np.arange(len(logits))[None]))[0]
    entropy = -(everything * np.log(everything)).sum()
    assert f"{entropy:.3f} nats" in page.locator(".distribution .facts").inner_text()


def test_a_slider_draws_again_and_runs_no_model(visit: Visit, model: LanguageModel) -> None:
    page = visit(seed=3)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    slider = page.locator("[data-setting=top_k]")
    slider.fill("2")
    expecting(page.locator(".pipeline thead th:nth-child(6) small")).to_have_text("2 left")
    assert any(url.endswith("/sampling") for url in asked)
    assert not [url for url in asked if url.endswith(("/explain/prompt", "/completions"))]
    assert [text for text in column(page, 6) if text != "–"] == column(page, 6)[:2]
    logits = gptwo.explain(model, PROMPT).logits[-1]
    ids = np.asarray(model.tokenizer.encode(PROMPT))
    policy = SamplingPolicy(temperature=0.8, top_k=2, top_p=0.95)
    drawn = choose(logits, ids, policy, prompt_tokens=len(ids), seed=3, step=0)
    assert page.locator("tr.drawn > :nth-child(2)").inner_text() == str(drawn)


def test_what_is_no_seed_is_marked_and_the_one_that_holds_comes_back(visit: Visit) -> None:
    page = visit(seed=3)
    seed = page.locator("[data-setting=seed]")
    shown = page.locator(".draw + .note")
    drawn = shown.inner_text()
    assert "Seed 3 gives" in drawn
    for wrong in ("-1", "1.5", "99999999999999", ""):
        seed.fill(wrong)
        assert page.locator("[data-setting=seed]:invalid").count() == 1, wrong
        page.focus(".go")
        assert seed.input_value() == "3"
        assert page.locator("[data-setting=seed]:invalid").count() == 0
    assert shown.inner_text() == drawn
    assert "seed=3" in page.url
    seed.fill("4")
    page.focus(".go")
    expecting(shown).to_contain_text("Seed 4 gives")
    assert seed.input_value() == "4"


def test_what_is_written_is_what_python_writes_and_was_drawn_as_is_shown(
    visit: Visit, model: LanguageModel
) -> None:
    page = visit(seed=5)
    page.select_option(".controls select", "10")
    page.click(".go")
    expected = model.generate(PROMPT, max_new_tokens=10, seed=5, **SETTINGS)
    count = len(model.tokenizer.encode(PROMPT))
    tokens_become(page, count + len(expected.tokens))
    written(page)
    assert page.input_value("#prompt") == PROMPT + expected.text
    page.locator("#strip .token").nth(count + 3).click()
    for again in ("as it was written", "from the link"):
        page.wait_for_selector("tr.drawn.actual")
        assert page.locator("tr.drawn > :nth-child(2)").inner_text() == str(expected.tokens[3]), again
        assert "Seed 5 gives draw 3 " in page.locator(".draw + .note").inner_text(), again
        page.reload()
        settled(page, "write")
    page.fill("#prompt", PROMPT)
    tokens_become(page, count)
    settled(page, "write")
    assert "start=" not in page.url
    expecting(page.locator(".draw + .note")).to_contain_text(" draw 0 ")


def test_another_token_is_taken_with_the_keyboard_and_the_text_goes_on_from_it(visit: Visit) -> None:
    page = visit(position=3)
    page.select_option(".controls select", "1")
    third = page.locator(".pipeline tbody tr").nth(2)
    token = third.locator(":nth-child(2)").inner_text()
    third.locator("button").focus()
    page.keyboard.press("Enter")
    tokens_become(page, 5)
    written(page)
    page.locator("#strip .token").nth(3).click()
    assert f"id {token}" in page.locator("#chosen").inner_text()
    assert "tokens=" in page.url


def test_writing_can_be_stopped(visit: Visit) -> None:
    page = visit()
    page.select_option(".controls select", "50")
    before = page.locator("#strip .token").count()
    page.evaluate(
        """new MutationObserver((_, seen) => { seen.disconnect(); document.querySelector(".go").click(); })
           .observe(document.getElementById("strip"), {childList: true})"""
    )
    page.click(".go")
    expecting(page.locator("#strip .token").nth(before)).to_be_visible()
    written(page)
    assert page.locator("#strip .token").count() < before + 50


def test_settings_that_are_refused_are_said_and_leave_no_numbers(visit: Visit) -> None:
    page = visit()
    refusal = {"error": {"code": None, "message": "top_k=3; expected another"}}
    page.route("**/sampling", lambda route: route.fulfill(status=400, json=refusal))
    page.locator("[data-setting=top_k]").fill("3")
    expecting(page.locator(".distribution .problem")).to_have_text("top_k=3; expected another")
    assert page.locator(".pipeline").count() == 0
    page.unroute("**/sampling")
    page.locator("[data-setting=top_k]").fill("2")
    expecting(page.locator(".pipeline thead th:nth-child(6) small")).to_have_text("2 left")


def test_what_was_just_typed_is_what_is_gone_on_from(visit: Visit) -> None:
    page = visit()
    page.select_option(".controls select", "1")
    page.evaluate(
        """() => {
          const box = document.getElementById("prompt");
          box.value = "When John went";
          box.dispatchEvent(new Event("input"));
          document.querySelector(".go").click();
        }"""
    )
    page.wait_for_url("**tokens=**")
    written(page)
    assert page.input_value("#prompt").startswith("When John went")


@pytest.mark.parametrize("typed", ["", "Mary " * 400], ids=["empty", "too long"])
def test_nothing_is_written_and_nothing_lost_when_the_prompt_is_refused(visit: Visit, typed: str) -> None:
    page = visit()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.fill("#prompt", typed)
    page.wait_for_selector("#problem:not([hidden])")
    page.click(".go")
    expecting(page.locator(".panel-write .spoken")).to_contain_text("Nothing to go on from")
    assert page.input_value("#prompt") == typed
    page.locator(".take").first.click()
    assert page.input_value("#prompt") == typed
    assert not [url for url in asked if url.endswith("/completions")]
    page.fill("#prompt", PROMPT)
    page.wait_for_selector("#problem", state="hidden")
    page.select_option(".controls select", "1")
    page.click(".go")
    page.wait_for_url("**tokens=**")
    written(page)


def test_a_token_drawn_from_beyond_the_most_probable_has_its_row(visit: Visit, model: LanguageModel) -> None:
    logits = gptwo.explain(model, PROMPT).logits[-1]
    ids = np.asarray(model.tokenizer.encode(PROMPT))
    policy = SamplingPolicy(temperature=2.0)
    most = set(np.argsort(-logits, kind="stable")[:20].tolist())
    draws = (
        (seed, choose(logits, ids, policy, prompt_tokens=len(ids), seed=seed, step=0)) for seed in range(1000)
    )
    seed, drawn = next((seed, token) for seed, token in draws if token not in most)
    page = visit(temperature=2, top_k=0, top_p=1, seed=seed)
    assert len(column(page, 2)) == 21
    assert page.locator("tr.drawn.beyond > :nth-child(2)").inner_text() == str(drawn)
    assert page.locator("tr.drawn.beyond > :nth-child(3)").inner_text() == f"{logits[drawn]:.2f}".replace(
        "-", "−"
    )
