"""The benchmark of the page: prompts are as long as they say, bars are counted right, the table is of the record."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from gptwo.tokenizer import build_byte, train_bpe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their modules can be imported, and their history goes elsewhere."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import record

    monkeypatch.setattr(record, "HISTORY", tmp_path / "history")


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_prompts_have_as_many_tokens_and_none_comes_twice(kind: str) -> None:
    import page

    tokenizer = build_byte() if kind == "byte" else train_bpe(iter([" ".join(page.WORDS) * 9]), 300)
    prompts = page.Prompts(tokenizer)
    for count in (1, 32, 1024):
        assert len(tokenizer.encode(prompts.take(count))) == count
    taken = [prompts.take(32) for _ in range(9)]
    assert len(set(taken)) == 9


def test_the_panels_are_those_of_the_page_and_its_weight_is_that_of_all_files() -> None:
    import page

    found = page.panels()
    assert {"write", "training"} <= set(found)
    assert all((page.WEB / "panels" / f"{panel}.js").is_file() for panel in found)
    assert page.weight_bytes() == sum(path.stat().st_size for path in page.WEB.rglob("*") if path.is_file())


def spread(median: float) -> dict[str, float]:
    return {"median": median, "min": 0.0, "max": 1e9}


def figures(**changed: Any) -> dict[str, Any]:
    return {
        "weight_bytes": 300_001, "first_paint_ms": spread(1000.0), "heads_ms": spread(4000.1),
        "redraw_ms": {"write": spread(100.0), "layers": spread(499.0), "time": spread(9000.0)},
        "transferred_bytes": spread(4e6), **changed,
    }  # fmt: skip


def test_the_slowest_panel_counts_and_one_that_measures_does_not() -> None:
    import page

    rows = {row["what"]: row for row in page.bars(figures())}
    verdicts = [row["verdict"] for row in rows.values()]
    assert verdicts == ["HIT", "HIT", "MISS", "HIT", "MISS"]
    assert rows["redraw after a changed prompt of 32 tokens"]["value"] == 499.0
    slow = {"write": spread(100.0), "layers": spread(501.0)}
    assert page.bars(figures(redraw_ms=slow))[1]["verdict"] == "MISS"
    without = figures()
    del without["heads_ms"]
    assert page.bars(without)[2]["verdict"] == "not measured"


def test_the_table_is_of_the_newest_run() -> None:
    import page
    import performance
    import record

    history = record.HISTORY / "page.jsonl"
    assert performance.page_tables(history).startswith("Not measured yet")
    line = {"size": "gpt2", "threads": 2, "rounds": 5, "others_share": 0.0, "chromium": "150.0", **figures()}
    for median in (1.0, 4000.1):
        again = {**line, "heads_ms": spread(median), "scroll_frame_ms": {"median": 16.7, "p95": 33.0}}
        record.append("page", {**again, "bars": page.bars(again)})
    table = performance.page_tables(history)
    assert "| heads of a 1,024-token prompt | 4,000 ms | ≤ 4,000 ms | MISS |" in table
    assert "| transferred for it | 4.00 MB | ≤ 5.00 MB | HIT |" in table
    assert "| weight of the page | 300 kB | ≤ 300 kB | MISS |" in table
    assert "| layers | 499 ms | 0 ms | 1,000,000,000 ms |" in table
    assert "Chromium 150.0" in table
    assert "95 of 100 at most 33 ms" in table


def test_a_small_model_is_measured_in_a_browser(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]' brings playwright")
    if shutil.which("chromium") is None:
        pytest.skip("there is no chromium; apt-get install chromium brings Debian's")
    import page
    import record

    monkeypatch.setattr(page, "LONG", 60)
    asked = [panel for panel in page.panels() if panel in ("write", page.LONG_PANEL)]
    monkeypatch.setattr(page, "panels", lambda: asked)
    monkeypatch.setattr(
        sys,
        "argv",
        ["page.py", "--size", "micro", "--rounds", "1", "--threads", "1", "--work", str(tmp_path)],
    )
    assert page.main() == 0
    (line,) = (record.HISTORY / "page.jsonl").read_text(encoding="utf-8").splitlines()
    found = json.loads(line)
    assert list(found["redraw_ms"]) == asked
    assert all(one["median"] > 0 for one in found["redraw_ms"].values())
    assert found["first_paint_ms"]["median"] > 0
    if page.LONG_PANEL in found["redraw_ms"]:
        assert found["transferred_bytes"]["median"] > 10_000
    assert "first paint" in capsys.readouterr().out
