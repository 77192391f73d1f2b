"""The report of ``gptwo bench``: what stands in the page, and that it needs nothing but itself."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gptwo.base.errors import StorageError
from gptwo.perf.report import html, pngs, words


def summary(median: float) -> dict[str, Any]:
    return {
        "median": median,
        "low": 0.98 * median,
        "high": 1.03 * median,
        "n": 3,
        "p50": median,
        "p95": 1.1 * median,
        "p99": None,
        "samples": [0.98 * median, median, 1.03 * median],
    }


def case(kind: str, seconds: float, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"{kind}-{seconds}",
        "kind": kind,
        "device": "cpu",
        "engine": "native",
        "dtype": "fp32",
        "batch": 1,
        "tokens": 1,
        "past": 0,
        "with_text": False,
        "seconds": summary(seconds),
        "tokens_per_s": 1 / seconds,
        "split": None,
        "flops": 250_000_000,
        "bytes": 500_000_000,
        "floor_s": 0.8 * seconds,
        "share": 0.8,
        "bound_by": "memory",
        "peak_memory_bytes": 800_000_000,
        "predicted_memory_bytes": 790_000_000,
        "predicted_s": 0.95 * seconds,
        "measured": True,
        **changes,
    }


@pytest.fixture
def record() -> dict[str, Any]:
    """One of a machine without a GPU."""
    ceilings = {
        "matmul_flops_per_s": {"fp32": 1.95e11},
        "read_bytes_per_s": 4.2e10,
        "copy_bytes_per_s": 2.6e10,
        "dispatch_s": 1.2e-6,
        "launch_s": 2.1e-6,
        "transfers": None,
    }
    split = {"data": 0.001, "forward": 0.5, "backward": 1.0, "optimizer": 0.299}
    predicted = {
        "seconds": None,
        "share": None,
        "peak_memory_bytes": None,
        "measured": False,
        "device": "H100",
    }
    return {
        "schema": "gptwo-bench/1",
        "created": "2026-11-24T20:01:02+00:00",
        "gptwo": "0.1.0",
        "commit": "abc123",
        "quick": True,
        "seconds": 84.2,
        "model": {"name": "gpt2", "config": {}, "parameters": 124_439_808, "weights": "random, seed 0"},
        "environment": {"processor": "A processor", "flags": ["avx2"], "blas": {"mkl": "2024"}, "cores": 2},
        "quiet": {"ok": True, "reasons": []},
        "devices": [
            {"name": "cpu", "kind": "cpu", "label": "A processor, 2 cores", "measured": True},
            {"name": "H100", "kind": "cuda", "label": "NVIDIA H100", "measured": False},
        ],
        "ceilings": [{"device": "cpu", "before": ceilings, "after": ceilings, "drift": 0.0}],
        "agreement": [
            {
                "a": "native fp32",
                "b": "torch fp32",
                "what": "logits",
                "largest": 3e-5,
                "allowed": 1e-4,
                "ok": True,
            }
            | {"why": "sums in another order"}
        ],
        "left_out": [{"what": "native int4", "why": "its logits differ"}],
        "initialisation": [
            {
                "device": "cpu",
                "engine": "native",
                "dtype": "fp32",
                "steps": [
                    {"name": "import", "summary": summary(0.11)},
                    {"name": "pack", "summary": summary(0.2)},
                ],
                "total": summary(0.31),
            }
        ],
        "cases": [
            case("decode", 0.0125),
            case("decode", 0.0137, past=1000),
            case("prefill", 0.5, tokens=512, bound_by="compute", tokens_per_s=1024.0),
            case("forward", 0.06, engine="torch", tokens=32),
            case("forward", 0.2, engine="torch", tokens=32, batch=4),
            case("train", 1.8, engine="torch", tokens=64, batch=4, split=split, tokens_per_s=142.0),
            case("decode", 0.0005) | predicted,
        ],
        "crossing": {
            "gpu_measured": False,
            "cpu": "A processor, native fp32",
            "gpu": "NVIDIA H100, torch bf16",
            "by_tokens": [
                {"tokens": n, "cpu_s": 0.3 + n / 80, "gpu_s": 6 + n / 2000} for n in (1, 10, 100, 1000)
            ],
            "points": {"tokens": 475},
            "verdict": "Below 475 tokens this CPU is done first.",
        },
        "energy": {"measured": False, "why": "no counters can be read"},
        "paper": [
            {
                "what": "a forward pass",
                "paper_cpu": "20 s",
                "paper_gpu": "30 ms",
                "cpu": "55 ms",
                "gpu": "0.5 ms",
            }
            | {"gpu_measured": False}
        ],
    }


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


def test_page_shows_each_figure_and_fetches_nothing(record: dict[str, Any]) -> None:
    text = html(record)
    page = Page(text)
    shown = re.sub(r"\s+", " ", page.text)
    for part in (
        "80 tokens/s",  # the faster of the two decoding cases
        "1,024 tokens/s",
        "124,439,808 parameters",
        "13.7 ms",
        "13.4–14.1 ms",
        "195 GFLOP/s",
        "42 GB/s",
        "Below 475 tokens this CPU is done first.",
        "native int4 (its logits differ)",
        "Not measured: no counters can be read.",
        "A processor",
    ):
        assert part in shown, part
    assert not page.fetched
    assert "@import" not in text
    assert "url(http" not in text
    assert len(page.ids) == len(set(page.ids)), "two elements have the same id"
    assert page.tags.count("figure") == 6
    assert "not quiet" not in shown


def test_a_device_that_is_not_here_is_a_prediction(record: dict[str, Any]) -> None:
    shown = re.sub(r"\s+", " ", Page(html(record)).text)
    assert "here, GPU (predicted)" in shown
    assert "decode, native fp32, H100 (predicted)" in shown
    assert "NVIDIA H100, torch bf16 (predicted)" in shown
    # What was not measured is no candidate for the figures at the head.
    assert "2,000 tokens/s" not in shown


def test_a_machine_that_was_not_quiet_is_said(record: dict[str, Any]) -> None:
    record["quiet"] = {"ok": False, "reasons": ["reading memory drifted by 7%"]}
    shown = Page(html(record)).text
    assert "This machine was not quiet" in shown
    assert "reading memory drifted by 7%" in shown


def test_names_are_text_and_never_markup(record: dict[str, Any]) -> None:
    name = '<script>alert(1)</script> & "x" $y^2$'
    record["model"]["name"] = name
    record["crossing"]["cpu"] = name
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
    bare["cases"], bare["initialisation"] = [], []
    bare["crossing"]["by_tokens"] = []
    assert "<svg" not in html(bare)


def test_pngs(record: dict[str, Any], tmp_path: Path) -> None:
    transfer = {"samples": [[4096, 2e-6], [1 << 30, 0.05]]}
    record["ceilings"][0]["before"] = record["ceilings"][0]["before"] | {
        "transfers": {"host_to_device": {"pageable": transfer}}
    }
    written = pngs(record, tmp_path / "plots")
    assert [path.stem for path in written] == [
        "roofline",
        "latency-by-batch",
        "decode",
        "training-step",
        "initialisation",
        "crossing",
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
        (words.share(0.834), "83%"),
        (words.interval({"low": 0.0009, "high": 0.0011}), "900 µs – 1.1 ms"),
    ],
)
def test_words(written: str, expected: str) -> None:
    assert written == expected
