"""How fast the page is in a browser: `python benchmarks/page.py [--rounds 5] [--model FOLDER] [--panels write,layers]`.

`gptwo serve` and a headless Chromium share this machine, as they do when one looks at one's own model:

    first paint   from the address to the first text, by the browser's own clock; nothing is cached
    redraw        from a keystroke in the prompt to the panel drawn anew, with 32 tokens and each panel in turn. The
                  page waits 120 ms for the next keystroke, and that counts
    long prompt   from 1,024 tokens put into the prompt to the heads of the attention panel, with the bytes that were
                  transferred for it; and how long a frame takes while that is scrolled
    weight        of all files of the page, as they are

A panel is drawn when it says so (aria-busy) and the browser has had two frames since. Every prompt is a new one, so
that neither the server nor the page knows it. The median over the rounds counts.

Needs playwright and Debian's chromium. Weights are random, of --size, with a byte-level tokenizer, unless --model gives
some. Each run adds a line to ``benchmarks/history/page.jsonl``; ``python benchmarks/performance.py`` makes the table of
docs/performance.md from it. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record
from decode import work_folder
from serve import environment
from serving.servers import free_port, running

from gptwo.perf.environment import BUSY, others_share
from gptwo.tokenizer import Tokenizer

WEB = Path(__file__).resolve().parents[1] / "src" / "gptwo" / "serve" / "web"
SHORT, LONG = 32, 1024
WORDS = ("the", "sea", "keeps", "what", "rivers", "bring", "and", "gives", "back", "rain", "over", "hills")
LONG_PANEL = "attention"
# It measures for seconds, and asks the user before it does.
UNTIMED = "time"
BARS = (
    ("first paint", "first_paint_ms", 1000.0, "ms"),
    ("redraw after a changed prompt of 32 tokens", "redraw_ms", 500.0, "ms"),
    ("heads of a 1,024-token prompt", "heads_ms", 4000.0, "ms"),
    ("transferred for it", "transferred_bytes", 5e6, "bytes"),
    ("weight of the page", "weight_bytes", 300e3, "bytes"),
)
_WAIT_MS = 60_000
# Resolves when the panel has been drawn for the prompt that is put in now, and the browser has had two frames since.
_CHANGE = """
text => new Promise((resolve, reject) => {
  const panel = document.getElementById("panel"), box = document.getElementById("prompt");
  const begin = performance.now();
  let began = false;
  const look = () => {
    const busy = panel.ariaBusy === "true" || document.body.classList.contains("busy");
    began ||= busy;
    if (!began || busy) return;
    watch.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now() - begin)));
  };
  const watch = new MutationObserver(look);
  watch.observe(panel, {attributes: true});
  watch.observe(document.body, {attributes: true});
  setTimeout(() => reject(new Error("the panel is not drawn")), 60000);
  box.value = text;
  box.dispatchEvent(new Event("input", {bubbles: true}));
})
"""
# Scrolls to the end of the page in steps, and returns what each frame took.
_SCROLL = """
() => new Promise(resolve => {
  const frames = [];
  let last = performance.now();
  const step = () => {
    const now = performance.now();
    frames.push(now - last);
    last = now;
    if (frames.length > 60) return resolve(frames.slice(1));
    const most = document.documentElement.scrollHeight - innerHeight;
    scrollTo(0, most * (frames.length / 60));
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})
"""


def panels() -> list[str]:
    """The page's tabs, from the left."""
    return re.findall(
        r'^  (\w+): \(\) => import\("\./panels/', (WEB / "app.js").read_text(encoding="utf-8"), re.M
    )


def weight_bytes() -> int:
    """Of every file of the page: all panels, all languages."""
    return sum(path.stat().st_size for path in WEB.rglob("*") if path.is_file())


class Prompts:
    """Texts of exactly so many tokens, each of which came never before."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._random = random.Random(0)

    def take(self, count: int) -> str:
        """Of ``count`` tokens."""
        while True:
            text = " ".join(self._random.choices(WORDS, k=count))
            text = self._tokenizer.decode(self._tokenizer.encode(text)[:count]).rstrip()
            # What is cut within a word may be other tokens by itself.
            missing = count - len(self._tokenizer.encode(text))
            text += "." * max(missing, 0)
            if len(self._tokenizer.encode(text)) == count:
                return text


class Browser:
    """A page at a time, in a context of its own: nothing is kept from one to the next."""

    def __init__(self, chromium: Any, url: str) -> None:
        self._chromium, self._url = chromium, url
        self.bytes = 0

    @contextlib.contextmanager
    def page(self, panel: str, prompt: str) -> Iterator[Any]:
        """The page when its panel has been drawn; ``bytes`` counts what comes to it over the network."""
        context = self._chromium.new_context(viewport={"width": 1280, "height": 900}, locale="en")
        try:
            page = context.new_page()
            page.set_default_timeout(_WAIT_MS)
            session = context.new_cdp_session(page)
            session.send("Network.enable")
            session.on("Network.loadingFinished", self._count)
            page.goto(f"{self._url}/#{panel}")
            page.wait_for_selector(f"#panel[data-shown='{panel}'][aria-busy='false']")
            page.wait_for_selector("body:not(.busy)")
            page.evaluate(_CHANGE, prompt)
            yield page
        finally:
            context.close()

    def _count(self, event: dict[str, Any]) -> None:
        self.bytes += int(event["encodedDataLength"])


def first_paint(browser: Browser, prompts: Prompts, rounds: int) -> list[float]:
    """ms, each in a context that has no cache."""
    found = []
    for _ in range(rounds):
        with browser.page("write", prompts.take(SHORT)) as page:
            found.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    return found


def redraws(browser: Browser, panel: str, prompts: Prompts, rounds: int) -> list[float]:
    """ms from a keystroke; the first one, which loads the panel, does not count."""
    with browser.page(panel, prompts.take(SHORT)) as page:
        return [page.evaluate(_CHANGE, prompts.take(SHORT)) for _ in range(rounds)]


def long_prompt(browser: Browser, prompts: Prompts, rounds: int) -> dict[str, Any]:
    """Of the heads of 1,024 tokens: ms, bytes, and ms of each frame while they are scrolled."""
    heads, transferred, frames = [], [], []
    for _ in range(rounds):
        with browser.page(LONG_PANEL, prompts.take(SHORT)) as page:
            browser.bytes = 0
            heads.append(page.evaluate(_CHANGE, prompts.take(LONG)))
            transferred.append(browser.bytes)
            frames += page.evaluate(_SCROLL)
    frames.sort()
    return {
        "heads_ms": record.spread(heads),
        "transferred_bytes": record.spread(transferred),
        "scroll_frame_ms": {"median": frames[len(frames) // 2], "p95": frames[int(len(frames) * 0.95)]},
    }


def bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Each bar with its value, its most, and whether it is kept; ``redraw`` is that of the slowest panel."""
    medians = {
        name: figures[name]["median"] if isinstance(figures[name], dict) else figures[name]
        for _, name, _, _ in BARS
        if figures.get(name) is not None and name != "redraw_ms"
    }
    timed = {panel: found["median"] for panel, found in figures["redraw_ms"].items() if panel != UNTIMED}
    if timed:
        medians["redraw_ms"] = max(timed.values())
    rows = []
    for what, name, most, unit in BARS:
        value = medians.get(name)
        verdict = "not measured" if value is None else "HIT" if value <= most else "MISS"
        rows.append({"what": what, "value": value, "most": most, "unit": unit, "verdict": verdict})
    return rows


def measure(url: str, chromium: Any, prompts: Prompts, asked: list[str], rounds: int) -> dict[str, Any]:
    """All figures of a server that is up."""
    browser = Browser(chromium, url)
    # The first prompt loads the reference.
    with browser.page("write", prompts.take(SHORT)):
        pass
    figures: dict[str, Any] = {"weight_bytes": weight_bytes()}
    figures["first_paint_ms"] = record.spread(first_paint(browser, prompts, rounds))
    figures["redraw_ms"] = {}
    for panel in asked:
        found = record.spread(redraws(browser, panel, prompts, rounds))
        figures["redraw_ms"][panel] = found
        print(f"{panel:12} redrawn in {found['median']:,.0f} ms", file=sys.stderr, flush=True)
    if LONG_PANEL in asked:
        figures |= long_prompt(browser, prompts, rounds)
    return figures


def write_model(size: str, folder: Path) -> Path:
    """A folder of that size with random weights and a byte-level tokenizer, by a process of its own."""
    code = (
        "import sys; from pathlib import Path; from gptwo.checkpoint.store import save_checkpoint; "
        "from gptwo.config import preset; from gptwo.model import build_model; "
        "from gptwo.tokenizer import build_byte; "
        "model = build_model(preset(sys.argv[1]), seed=0, device='cpu'); "
        "save_checkpoint(Path(sys.argv[2]), config=model.config, weights=model.state_dict(), "
        "tokenizer=build_byte(), training=None)"
    )
    if not folder.exists():
        subprocess.run([sys.executable, "-c", code, size, str(folder)], check=True, env=environment())
    return folder


def main() -> int:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="gpt2", help="a size of gptwo's, with random weights")
    parser.add_argument("--model", type=Path, help="a model's folder instead")
    parser.add_argument("--work", type=Path, help="where the model is kept; without it it is made each time")
    parser.add_argument("--panels", help="those alone, with commas; nothing is kept in the record")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    options = parser.parse_args()
    if options.chromium is None:
        parser.error(
            "there is no chromium; apt-get install chromium brings Debian's, or name one: --chromium"
        )
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        parser.error("playwright is missing; pip install playwright")
    asked = options.panels.split(",") if options.panels else panels()
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(work_folder(options.work))
        model = options.model or write_model(options.size, work / options.size)
        prompts = Prompts(Tokenizer.load(model))
        port = free_port()
        line = [sys.executable, "-m", "gptwo", "serve", str(model), "--port", str(port)]
        line += ["--threads", str(options.threads)]
        stack.enter_context(running("gptwo fp32", line, port, work / "serve.log", environment()))
        started = stack.enter_context(sync_playwright())
        chromium = started.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        stack.callback(chromium.close)
        busy = others_share()
        figures = {
            "size": options.model.name if options.model else options.size,
            "threads": options.threads,
            "rounds": options.rounds,
            "others_share": busy,
            "chromium": chromium.version,
            **measure(f"http://127.0.0.1:{port}", chromium, prompts, asked, options.rounds),
        }
    figures["bars"] = bars(figures)
    for row in figures["bars"]:
        value = "-" if row["value"] is None else f"{row['value']:,.0f}"
        print(f"{row['verdict']:12} {row['what']:44} {value:>12}  <= {row['most']:,.0f} {row['unit']}")
    if "scroll_frame_ms" in figures:
        frame = figures["scroll_frame_ms"]
        print(f"a frame while it is scrolled: {frame['median']:.0f} ms, 95% within {frame['p95']:.0f} ms")
    if busy > BUSY:
        print(f"the machine was busy: other processes took {busy:.0%} of it")
    if not options.panels:
        record.append("page", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
