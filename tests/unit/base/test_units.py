"""Bytes and seconds as a person says them."""

from __future__ import annotations

import pytest

from gptwo.base.units import duration, in_units, rate, short_time


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (42.3, "42 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (65, "1 min 05 s"),
        (185, "3 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3600, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (172_800, "48 h 00 min"),
        (360_000, "4 days 4 h"),
    ],
)
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_bytes() -> None:
    assert [in_units(size) for size in (12, 1500, 2_420_000_000)] == ["12 bytes", "1.5 kB", "2.42 GB"]


def test_rates() -> None:
    assert [rate(n) for n in (0.1254, 35.71, 99.4, 100.2, 9123.4)] == [
        "0.125",
        "35.7",
        "99.4",
        "100",
        "9,123",
    ]


def test_short_times() -> None:
    assert [short_time(seconds) for seconds in (1.234, 0.0456, 7.89e-4)] == ["1.23 s", "45.6 ms", "789 µs"]
