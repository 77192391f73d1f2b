"""Bytes, seconds and numbers per second as a person says them."""

from __future__ import annotations


def in_units(size: float) -> str:
    """Bytes in powers of 1000: ``2.42 GB``."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


def rate(per_second: float) -> str:
    """A number per second, to three digits and never as a power of ten: 0.125, 35.7, 9,123."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def duration(seconds: float) -> str:
    """Time left or gone: 42 s, 3 min 05 s, 2 h 10 min, 12 days 3 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 3 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"


def short_time(seconds: float) -> str:
    """The time of one thing, to three digits: 1.23 s, 45.6 ms, 789 µs."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
