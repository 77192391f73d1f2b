"""The report of ``gptwo bench``: what stands in the page, and that it needs nothing but itself."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_answers import Answers

from gptwo.base.errors import StorageError
from gptwo.config import GPT2Config
from gptwo.perf import report
from gptwo.perf.bench import bench
from gptwo.perf.measuring import Settings
from gptwo.perf.report import html, pngs, words
from gptwo.tokenizer.build import build_byte
from random_checkpoint import write_random_checkpoint

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=64, vocab_size=257, dropout=0.0)


@pytest.fixture(scope="module")
def of_bench(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_random_checkpoint(tmp_path_factory.mktemp("models") / "tiny", CONFIG, dtype=torch.float32)
    build_byte().save(folder)
    return bench(Settings(model=str(folder), devices=("cpu",), quick=True, gpu="h100"), ask=Answers())


@pytest.fixture
def record(of_bench: dict[str, Any]) -> dict[str, Any]:
    """What ``bench`` makes on a quiet machine without a GPU."""
    found = copy.deepcopy(of_bench)
    found["quiet"] = {"ok": True, "others_share": 0.0, "reasons": []}
    return found


class Page(HTMLParser):
    """The text of a page, its ids, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.ids, self.fetched, self.tags = "", [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#"):
                self.fetched.append(value)

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(record: dict[str, Any]) -> str:
    return re.sub(r"\s+", " ", Page(html(record)).text)


def test_page_shows_each_figure_and_fetches_nothing(record: dict[str, Any]) -> None:
    text = html(record)
    page, written = Page(text), shown(record)
    for part in (
        "179 tokens/s",  # writing with the faster of the two that write
        "11,728 parameters, weights the model's own · 2 threads",
        "native int8, after 40 tokens; ",
        "the quick form",
        "20 GB/s",
        "100 GFLOP/s",
        "prompts and writing with torch fp32 on cpu (--quick times",
        "no way to empty the cache",  # beside a start
        "read cold",
        "sums in another order",
        "Not measured: --quick has no time for it.",
        "A processor",
    ):
        assert part in written, part
    assert not page.fetched
    assert "@import" not in text
    assert "url(http" not in text
    assert len(page.ids) == len(set(page.ids)), "two elements have the same id"
    assert page.tags.count("figure") == 6
    assert "not quiet" not in written


def test_every_case_stands_in_its_table(record: dict[str, Any]) -> None:
    page = shown(record)
    for case in record["cases"]:
        if case["measured"]:
            assert words.seconds(case["seconds"]["median"]) in page
            for line in words.interval(case["seconds"], len(case["rounds"])).split(", "):
                assert line in page
        assert words.seconds(case["floor_s"]) in page
    for title in ("Writing: one more token", "Reading a prompt", "A forward pass, to the", "A training step"):
        assert title in page
    firsts = [case["first_token_s"]["median"] for case in record["cases"] if case["first_token_s"]]
    assert firsts
    assert all(words.seconds(first) in page for first in firsts)


def test_a_p99_has_a_column_where_there_is_one(record: dict[str, Any]) -> None:
    assert "p99" not in shown(record)
    case = next(case for case in record["cases"] if case["kind"] == "decode" and case["measured"])
    case["seconds"]["p99"] = 0.0777
    page = shown(record)
    assert "p99" in page
    assert "77.7 ms" in page


def test_a_device_that_is_not_here_is_a_prediction(record: dict[str, Any]) -> None:
    page = shown(record)
    label = next(entry["label"] for entry in record["devices"] if not entry["measured"])
    assert "H100" in label
    assert f"{label} (predicted)" in page
    assert "a prediction from its data sheet, not a measurement" in page
    # In the paper's table, in every table of cases, and in the plots of passes by batch and of the crossing.
    assert page.count(f"{label} (predicted)") >= 1 + len({case["kind"] for case in record["cases"]}) + 2
    # What was not measured is no candidate for the figures at the head.
    assert all(entry["case"]["measured"] for entry in report._best(record))


def test_a_machine_that_was_not_quiet_is_said(record: dict[str, Any]) -> None:
    record["quiet"] = {"ok": False, "reasons": ["reading memory drifted by 7%"]}
    page = Page(html(record)).text
    assert "This machine was not quiet" in page
    assert "reading memory drifted by 7%" in page


def test_what_differs_is_seen(record: dict[str, Any]) -> None:
    assert "DIFFER" not in shown(record)
    record["agreement"][0] |= {"ok": False, "largest": None}
    page = shown(record)
    assert "DIFFER" in page
    assert "no number" in page


def test_names_are_text_and_never_markup(record: dict[str, Any]) -> None:
    name = '<script>alert(1)</script> & "x" $y^2$'
    record["model"]["name"] = name
    record["environment"]["processor"] = name
    record["devices"][-1]["label"] = name
    page = Page(html(record))
    assert "script" not in page.tags
    assert name in page.text


def test_colours_follow_the_theme(record: dict[str, Any]) -> None:
    text = html(record)
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == 6
    variables = set(re.findall(r"var\((--[a-z0-9-]+)\)", "".join(figures)))
    assert {"--ink", "--series-1"} <= variables
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    for variable in variables:
        assert f"{variable}:" in light
        assert f"{variable}:" in dark


def test_what_was_not_measured_has_no_plot(record: dict[str, Any]) -> None:
    bare = copy.deepcopy(record)
    bare["cases"], bare["initialisation"], bare["crossing"] = [], [], None
    assert "<svg" not in html(bare)


def test_pngs(record: dict[str, Any], tmp_path: Path) -> None:
    transfer = {"samples": [[4096, 2e-6], [1 << 30, 0.05]]}
    record["ceilings"][0]["before"] = record["ceilings"][0]["before"] | {
        "transfers": {"host_to_device": {"pageable": transfer}}
    }
    written = pngs(record, tmp_path / "plots")
    assert [path.stem for path in written] == [
        "crossing",
        "latency-by-batch",
        "roofline",
        "decode",
        "training-step",
        "initialisation",
        "transfers",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write plots"):
        pngs(record, tmp_path / "file")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.seconds(1.8), "1.8 s"),
        (words.seconds(0.01246), "12.5 ms"),
        (words.seconds(3.1e-4), "310 µs"),
        (words.seconds(2e-9), "2 ns"),
        (words.seconds(None), "–"),
        (words.seconds(1234.5), "1,234 s"),
        (words.size(999), "999 B"),
        (words.size(2.42e9), "2.42 GB"),
        (words.rate(1.95e11, "FLOP"), "195 GFLOP/s"),
        (words.count(124_439_808), "124,439,808"),
        (words.count(70.31), "70.3"),
        (words.short(100_000), "100k"),
        (words.short(0.1), "0.1"),
        (words.distance(7.7e-6), "8·10⁻⁶"),
        (words.distance(0.0731), "0.073"),
        (words.distance(None), "no number"),
        (words.share(0.834), "83%"),
        (words.interval({"low": 0.0009, "high": 0.0011, "n": 9}), "900 µs – 1.1 ms, n = 9"),
        (words.interval({"low": 0.9, "high": 1.1, "n": 9}, 3), "900 ms – 1.1 s, n = 9 in 3 processes"),
        (words.interval({"low": 0.9, "high": 1.1, "n": 3}, 1), "900 ms – 1.1 s, n = 3 in 1 process"),
    ],
)
def test_words(written: str, expected: str) -> None:
    assert written == expected
