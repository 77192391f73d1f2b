"""How the next token is to be taken: what may be asked for, checked. No torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from gptwo.base.errors import ConfigError

# What a policy's field may be: its kind, the least, the most, and both in words.
_POSSIBLE: dict[str, tuple[Any, float, float, str]] = {
    "temperature": (Real, 0.0, sys.float_info.max, "a number of at least 0 (0 is greedy)"),
    # Beyond these a penalised logit may not be a finite number.
    "repetition_penalty": (Real, 1e-30, 1e30, "a number above 0 (1 is none)"),
    "presence_penalty": (Real, -1e30, 1e30, "a finite number (0 is none)"),
    "frequency_penalty": (Real, -1e30, 1e30, "a finite number (0 is none)"),
    "top_k": (Integral, 1, math.inf, "a whole number of at least 1, or None"),
    "top_p": (Real, sys.float_info.min, 1.0, "0 < top_p <= 1, or None"),
    "min_p": (Real, 0.0, 1.0, "0 <= min_p <= 1, or None"),
    # What fits a signed 64-bit integer, as most readers of JSON expect.
    "seed": (Integral, 0, 2**63 - 1, "a whole number from 0 to 2**63 - 1, or None"),
}
_BIASED = (Integral, 0, math.inf, "a whole number of at least 0")
_BIAS = (Real, -1e30, 1e30, "a finite number")


@dataclass(frozen=True, kw_only=True)
class SamplingPolicy:
    """How the next token is taken from the logits. ``temperature=0`` takes the largest (the lowest id among equals).

    temperature τ ≥ 0 · top_k ≥ 1 · 0 < top_p ≤ 1 · 0 ≤ min_p ≤ 1 · repetition_penalty > 0 · presence_penalty,
    frequency_penalty and the values of logit_bias finite; None leaves a stage out · 0 ≤ seed < 2⁶³, None for a fresh
    one. Raises ``ConfigError`` for anything else, NaN and infinities included.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, possible in _POSSIBLE.items():
            given = getattr(self, name)
            if not (given is None and possible[-1].endswith("or None")):
                _require(name, given, possible)
        if self.logit_bias is not None:
            if not isinstance(self.logit_bias, Mapping):
                raise ConfigError(
                    f"logit_bias={self.logit_bias!r} is not possible; expected a mapping from ids"
                )
            for token, bias in self.logit_bias.items():
                _require("logit_bias: id", token, _BIASED)
                _require(f"logit_bias[{token}]", bias, _BIAS)
            # A copy: whoever gave it may change theirs.
            object.__setattr__(self, "logit_bias", dict(self.logit_bias))


def _require(name: str, given: Any, possible: tuple[Any, float, float, str]) -> None:
    kind, least, most, expected = possible
    value = given.item() if isinstance(given, np.generic) else given
    # NaN is not between anything, and neither are the infinities.
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"{name}={given!r} is not possible; expected {expected}")
