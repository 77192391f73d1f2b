"""x Wᵀ + b by whichever library: NumPy's in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptwo.explanation.linear import linear
from tolerance import FLOAT64, Tolerance

FLOAT32 = Tolerance(atol=2e-5, rtol=1e-5, why="fp32, the order of a sum over n = 333 of numbers near 1")


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)], ids=["fp64", "fp32"]
)
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 5), (2, 3, 64)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_product(
    shape: tuple[int, ...], has_bias: bool, dtype: torch.dtype, tolerance: Tolerance
) -> None:
    random = np.random.default_rng(0)
    x, weight, bias = (random.normal(size=size) for size in ((*shape, 333), (101, 333), (101,)))
    given = [torch.from_numpy(array).to(dtype) for array in (x, weight / 20, bias)]
    found = linear(given[0], given[1], given[2] if has_bias else None)
    assert found.dtype == dtype
    tolerance.assert_close(found, x @ weight.T / 20 + has_bias * bias, "x Wᵀ + b")


def test_of_what_is_not_in_order() -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(40, 9, generator=torch.Generator().manual_seed(2))
    expected = x.T.double() @ weight.double()
    FLOAT32.assert_close(linear(x.T, weight.T), expected, "of transposed matrices")


@pytest.mark.parametrize("has_onednn", [True, False])
def test_without_the_quicker_library(has_onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: asked.append(True) or has_onednn)
    x, weight = torch.ones(2, 3), torch.ones(4, 3)
    assert torch.equal(linear(x, weight), torch.full((2, 4), 3.0))
    assert asked
