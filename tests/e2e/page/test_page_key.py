"""A server with keys: the page asks for one, says when it is wrong, and keeps it for the tab when it is right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from page_visit import PROMPT, expecting, settled
from running_server import RunningServer, running_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

KEY = "right-key-1"


@pytest.fixture(scope="module")
def guarded(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that answers to KEY alone."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(KEY + "\n", encoding="utf-8")
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with running_server(run_folder, "--api-key-file", keys, log=log) as running:
        yield running
        assert "Traceback" not in running.said(), running.said()[-4000:]


@pytest.fixture
def page(browser: Browser, guarded: RunningServer) -> Iterator[Page]:
    """The page as it opens, when it asks; no error may be thrown in it."""
    context = browser.new_context(locale="en")
    page = context.new_page()
    thrown: list[str] = []
    page.on("pageerror", lambda error: thrown.append(str(error)))
    page.goto(f"{guarded.url}/?lang=en")
    page.wait_for_selector("#key-dialog[open]")
    yield page
    context.close()
    assert not thrown


def give(page: Page, key: str) -> None:
    page.fill("#key", key)
    page.keyboard.press("Enter")


def test_a_wrong_key_is_said_and_the_right_one_is_kept(page: Page) -> None:
    alert = page.locator("#key-dialog [role=alert]")
    expecting(alert).to_be_hidden()
    for wrong in ("not this one", "mật khẩu"):
        give(page, wrong)
        expecting(alert).to_contain_text("not one of this server's")
        expecting(page.locator("#key")).to_have_value("")
        assert page.evaluate("sessionStorage.getItem('gptwo-key')") is None
    give(page, KEY)
    settled(page, "write")
    expecting(page.locator("#key-dialog")).to_be_hidden()
    page.reload()
    settled(page, "write")
    assert page.locator("#strip .token").count() > 0
    expecting(page.locator("#key-dialog")).to_be_hidden()


def test_a_wrong_key_is_not_kept_for_the_next_visit(page: Page) -> None:
    give(page, "not this one")
    expecting(page.locator("#key-problem")).to_be_visible()
    page.reload()
    page.wait_for_selector("#key-dialog[open]")
    expecting(page.locator("#key-problem")).to_be_hidden()


def test_who_gives_none_is_told_and_asked_again_by_the_next_prompt(page: Page) -> None:
    page.keyboard.press("Escape")
    expecting(page.locator("#problem")).to_contain_text("was given none")
    expecting(page.locator("#key-dialog")).to_be_hidden()
    page.fill("#prompt", PROMPT)
    page.wait_for_selector("#key-dialog[open]")
    give(page, KEY)
    settled(page, "write")
    expecting(page.locator("#problem")).to_be_hidden()
    expecting(page.locator("#model")).not_to_be_empty()
