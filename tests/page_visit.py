"""The page as tests meet it: what they ask it about, and when it has drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE_MS = 150_000
PROMPT = "When Mary and John went to the"

WEB = Path(__file__).parents[1] / "src" / "gptwo" / "serve" / "web"
PANELS = re.findall(
    r'^  (\w+): \(\) => import\("\./panels/', (WEB / "app.js").read_text(encoding="utf-8"), flags=re.M
)
"""As the page has their tabs, from the left."""

Visit = Callable[..., "Page"]


def settled(page: Page, panel: str) -> None:
    """Waits until the prompt is explained and the panel has been drawn.

    Where the time goes is measured, and the first time on a machine its ceilings are too.
    """
    page.wait_for_selector("body:not(.busy)", timeout=PATIENCE_MS)
    page.wait_for_selector(f"#panel[data-shown='{panel}'][aria-busy='false']", timeout=PATIENCE_MS)


def tokens_become(page: Page, count: int) -> None:
    """Waits until the strip has so many tokens."""
    expecting(page.locator("#strip .token")).to_have_count(count)


def expecting(subject: Any) -> Any:
    """playwright's ``expect``, which waits. Found only when called: a machine without it skips these tests."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE_MS)
    return expect(subject)
