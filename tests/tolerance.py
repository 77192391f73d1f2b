"""How near is near enough, as data with a reason: ``Tolerance(atol=2e-5, why="fp32 sum order over K=64")``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


def _float64(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A torch tensor of any dtype and device, a NumPy array, a list or a number, as float64."""
    if hasattr(value, "detach"):
        value = value.detach().double().cpu().numpy()
    return np.asarray(value, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """``|actual - expected| <= atol + rtol |expected|``, element by element; ``why`` says where the gap comes from."""

    why: str
    atol: float = 0.0
    rtol: float = 0.0

    def __post_init__(self) -> None:
        if not self.why.strip():
            raise ValueError("a tolerance needs its reason")
        if not (self.atol >= 0 and self.rtol >= 0 and self.atol + self.rtol > 0):
            raise ValueError(f"atol={self.atol}, rtol={self.rtol}: one of them must be above 0, none below")

    def assert_close(self, actual: Any, expected: Any, what: str = "value") -> None:
        """Shapes equal, infinities and NaNs in the same places, the rest within tolerance; else ``AssertionError``."""
        a, e = _float64(actual), _float64(expected)
        assert a.shape == e.shape, f"{what}: shape {a.shape}, expected {e.shape}"
        finite = np.isfinite(e)
        assert np.array_equal(a[~finite], e[~finite], equal_nan=True), f"{what}: non-finite values differ"
        gap = np.abs(a[finite] - e[finite])
        allowed = self.atol + self.rtol * np.abs(e[finite])
        excess = ~(gap <= allowed)  # a NaN in actual compares false, and so counts as excess
        if excess.any():
            worst = int(np.argmax(np.where(np.isnan(gap), np.inf, gap - allowed)))
            raise AssertionError(
                f"{what}: {int(excess.sum())} of {e.size} values differ by more than allowed; worst: "
                f"got {a[finite][worst]!r}, expected {e[finite][worst]!r}, gap {gap[worst]:.3e} > "
                f"{allowed[worst]:.3e} (atol={self.atol}, rtol={self.rtol}: {self.why})"
            )


FLOAT64 = Tolerance(
    atol=1e-10, rtol=1e-10, why="float64 rounds at 1e-16; sums here have up to some 1e5 terms"
)
