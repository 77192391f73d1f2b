from __future__ import annotations

import pytest

from gptwo.base.errors import ConfigError
from gptwo.infer.stop import StopMatcher


def passed(stops: list[str], *pieces: str) -> list[str]:
    matcher = StopMatcher(stops)
    return [*(matcher.push(piece) for piece in pieces), matcher.finish()]


def test_text_without_stop_strings_passes_at_once() -> None:
    assert passed([], "ab", "c") == ["ab", "c", ""]


def test_what_may_become_a_stop_string_is_held_back_until_it_is_none() -> None:
    assert passed(["END"], "xE", "N", "e", "E") == ["x", "", "ENe", "", "E"]


def test_a_stop_string_over_several_pieces_is_cut_out_with_what_follows() -> None:
    assert passed(["END"], "a E", "N", "D b", "c") == ["a ", "", "", "", ""]


def test_a_stop_string_within_a_piece_cuts_it() -> None:
    assert passed(["\n\n"], "one\n\ntwo") == ["one", ""]


def test_a_held_beginning_may_hide_a_later_one() -> None:
    assert passed(["aab"], "aa", "a", "b") == ["", "a", "", ""]


def test_the_stop_string_that_is_complete_first_counts_however_the_text_is_cut() -> None:
    for pieces in (["xabc"], ["x", "a", "b", "c"], ["xa", "bc"]):
        assert "".join(passed(["abc", "b"], *pieces)) == "xa"


def test_of_stop_strings_that_end_together_the_longest_is_cut() -> None:
    for pieces in (["xabc"], ["x", "a", "b", "c"]):
        assert "".join(passed(["c", "abc"], *pieces)) == "x"


@pytest.mark.parametrize("stops", [[""], ["a", ""]])
def test_an_empty_stop_string_is_refused(stops: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^stop='' is not possible; expected [^\n]+$"):
        StopMatcher(stops)
