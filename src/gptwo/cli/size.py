"""Sizes on the command line."""

from __future__ import annotations

import argparse
import re

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of ``512MB``, ``2GiB`` or a plain number; argparse's error for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected bytes, or as 512MB, 2GiB")
    return int(float(found[1]) * _UNITS[(found[2] or "").lower()])


def size_text(count: int) -> str:
    """Whole kibibytes in the largest unit that divides them: ``4MiB``. ``parse_size`` reads it."""
    exponent, unit = max(
        pair for pair in ((10, "KiB"), (20, "MiB"), (30, "GiB")) if count % (1 << pair[0]) == 0
    )
    return f"{count >> exponent}{unit}"
