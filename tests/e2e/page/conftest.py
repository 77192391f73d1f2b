"""The page in a real browser: Debian's Chromium, headless, before a real server, beyond which nothing is asked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import pytest

import gptwo
from command import process
from page_visit import PATIENCE_MS, PROMPT, Visit, settled
from running_server import RunningServer, running_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from gptwo.infer.api import LanguageModel

TEXT = "When Mary and John went to the store, John gave a drink to Mary. Năm nay mưa nhiều. " * 60
TRAINING = """
    --n-layer 2 --n-head 3 --n-embd 48 --context 64 --batch-tokens 256 --steps 20 --warmup-steps 1 --eval-every 10
    --save-every 10 --log-every 2 --sample-tokens 0 --device cpu
"""


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with checkpoints of two steps."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    for arguments in (
        ["prepare", folder / "text.txt", "--tokenizer", "bpe", "--vocab-size", 320, "--out", folder / "data"],
        ["train", "--data", folder / "data", *TRAINING.split(), "--out", folder / "run"],
    ):
        outcome = process(*arguments, OMP_NUM_THREADS="1")
        assert outcome.code == 0, outcome.err
    return folder / "run"


@pytest.fixture(scope="session")
def model(run_folder: Path) -> LanguageModel:
    """What the server serves, in Python."""
    return gptwo.load(run_folder)


@pytest.fixture(scope="session")
def page_server(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The server of the run."""
    with running_server(run_folder, log=tmp_path_factory.mktemp("log") / "serve.log") as running:
        yield running
        assert "Traceback" not in running.said(), running.said()[-4000:]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Ends with the module: while it lives an event loop is running here, and other modules' tests run their own."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="pip install -e '.[dev]' brings playwright"
    )
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium; on Debian, apt-get install chromium brings it")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser: Browser, page_server: RunningServer) -> Iterator[Visit]:
    """``visit(panel, prompt=…, lang=…, width=…, dark=…)``: the page, when its panel is there.

    At the end of the test, nothing may have been said on the console, and nothing asked of another host.
    """
    said: list[str] = []
    contexts = []

    def open_page(
        panel: str = "write",
        *,
        lang: str = "en",
        width: int = 1280,
        dark: bool = False,
        url: str | None = None,
        **link: Any,
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", locale="en"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: said.append(message.text) if _is_a_fault(message.text) else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        host = urlsplit(url or page_server.url).netloc
        page.on("request", lambda asked: said.append(asked.url) if _leaves(asked.url, host) else None)
        query = urlencode({"prompt": PROMPT, **link})
        page.goto(url or f"{page_server.url}/?lang={lang}#{panel}?{query}")
        settled(page, panel)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not said


def _is_a_fault(message: str) -> bool:
    # Chromium says by itself that a prompt was refused; the page shows why.
    return "status of 400" not in message


def _leaves(url: str, host: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != host
