"""The page as tests meet it: what they ask it about, and when it has drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

PROMPT = "When Mary and John went to the"

Visit = Callable[..., "Page"]


def settled(page: Page, panel: str) -> None:
    """Waits until the prompt is explained and the panel has been drawn."""
    page.wait_for_selector("body:not(.busy)")
    page.wait_for_selector(f"#panel[data-shown='{panel}'][aria-busy='false']")


def tokens_become(page: Page, count: int) -> None:
    """Waits until the strip has so many tokens."""
    expecting(page.locator("#strip .token")).to_have_count(count)


def expecting(subject: Any) -> Any:
    """playwright's ``expect``, which waits. Found only when called: a machine without it skips these tests."""
    from playwright.sync_api import expect

    return expect(subject)
