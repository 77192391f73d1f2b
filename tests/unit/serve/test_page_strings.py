"""The strings of the page: every key in both languages, with the same values, and every key that the code names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from page_visit import PANELS, WEB

# t("block.name") and data-t="block.name"; names that are put together are only begun: t(`block.${…}`).
NAMED = re.compile(r"""\bt\(\s*["'`]([a-z_]+\.[a-z_.]+)["'`]|data-t(?:-label)?="([a-z_.]+)\"""")
VALUES = re.compile(r"\{(\w+)\}")


def strings(language: str) -> dict[str, str]:
    def leaves(block: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for name, value in block.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    return dict(leaves(json.loads((WEB / f"{language}.json").read_text(encoding="utf-8")), ""))


def test_both_languages_have_the_same_keys_and_values() -> None:
    english, vietnamese = strings("en"), strings("vi")
    assert english.keys() == vietnamese.keys()
    for key, text in english.items():
        assert text, key
        assert vietnamese[key], key
        assert set(VALUES.findall(text)) == set(VALUES.findall(vietnamese[key])), key


def test_every_key_that_the_page_names_is_there() -> None:
    files = [*WEB.rglob("*.js"), *WEB.glob("*.html")]
    named = {
        (path.name, first or second)
        for path in files
        for first, second in NAMED.findall(path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    known = strings("en")
    assert not {(name, key) for name, key in named if key not in known}


def test_every_panel_has_a_tab_and_a_name() -> None:
    assert set(PANELS) == {path.stem for path in (WEB / "panels").glob("*.js")}
    assert {f"{panel}.tab" for panel in PANELS} <= strings("en").keys()


def test_nothing_is_fetched_from_elsewhere_and_no_data_is_taken_for_markup() -> None:
    for path in [*WEB.rglob("*.js"), *WEB.glob("*.html"), *WEB.glob("*.css")]:
        text = path.read_text(encoding="utf-8")
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1998/Math/MathML",
            "http://page/",
        }
        assert not addresses, path.name
        assert not re.search(r"\b(innerHTML|insertAdjacentHTML|document\.write|eval\()", text), path.name


def test_the_page_weighs_little() -> None:
    assert sum(path.stat().st_size for path in WEB.rglob("*") if path.is_file()) <= 300_000
