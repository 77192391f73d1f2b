"""Numbers as people read them."""

from __future__ import annotations

from typing import Any

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def seconds(value: float | None) -> str:
    """``1.8 s``, ``12.4 ms``, ``310 µs``: three digits, in the unit that needs no zeros."""
    if value is None:
        return "–"
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= factor:
            return f"{_digits(value / factor)} {unit}"
    return f"{_digits(value / 1e-9)} ns"


def size(value: float | None) -> str:
    """Bytes in powers of 1000."""
    return "–" if value is None else _in_thousands(value, ("B", "kB", "MB", "GB", "TB"))


def rate(value: float | None, unit: str) -> str:
    """``41.2 GB/s``, ``193 GFLOP/s``: so many of ``unit`` a second."""
    if value is None:
        return "–"
    return _in_thousands(value, tuple(f"{prefix}{unit}/s" for prefix in ("", "k", "M", "G", "T", "P")))


def count(value: float | None) -> str:
    """``124,439,808``; below 100 three digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else _digits(value)


def short(value: float) -> str:
    """A number at an axis: ``0.1``, ``10``, ``1k``, ``100M``."""
    return _in_thousands(value, ("", "k", "M", "G", "T", "P")).replace(" ", "")


def share(value: float | None) -> str:
    """``73%``; above 1 as ``101%``, which says that the ceiling was measured lower than what was reached."""
    return "–" if value is None else f"{value:.0%}"


def distance(value: float | None) -> str:
    """``0.073``, ``8·10⁻⁶``; None is of what was not finite."""
    if value is None:
        return "no number"
    if value == 0 or value >= 1e-3:
        return f"{value:.2g}"
    digits, _, exponent = f"{value:.0e}".partition("e")
    return f"{digits}·10{str(int(exponent)).translate(_RAISED)}"


def interval(summary: dict[str, Any] | None, processes: int | None = None) -> str:
    """The bootstrap interval of a median in seconds and the number of samples, ``1.79–1.84 s, n = 9``.

    With ``processes`` in how many they were taken, ``n = 9 in 3 processes``.
    """
    if summary is None:
        return ""
    low, high = seconds(summary["low"]), seconds(summary["high"])
    number, _, unit = low.rpartition(" ")
    found = f"{number}–{high}" if high.endswith(f" {unit}") else f"{low} – {high}"
    found = f"{found}, n = {summary['n']:,}"
    return found if processes is None else f"{found} in {processes} process{'es' if processes > 1 else ''}"


def _in_thousands(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if abs(value) < 1000:
            return f"{_digits(value)} {unit}"
        value /= 1000
    return f"{_digits(value)} {units[-1]}"


def _digits(value: float) -> str:
    """Three of them; more before the point where there are more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
