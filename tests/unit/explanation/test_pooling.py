"""Fields of a tensor: their largest value, their mean."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from gptwo.explanation.pooling import pooled
from tolerance import FLOAT64


@pytest.mark.parametrize("how", ["max", "mean"])
@pytest.mark.parametrize(("R", "S", "size"), [(1, 1, 1), (7, 5, 3), (9, 2, 4), (65, 65, 64), (130, 3, 64)])
def test_fields_leave_no_row_out(R: int, S: int, size: int, how: Literal["max", "mean"]) -> None:
    tensor = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, R, S)))
    found = pooled(tensor, size, how=how)
    r, s = min(R, size), min(S, size)
    assert found.shape == (2, 3, r, s)
    for i, j in np.ndindex(r, s):
        field = tensor[..., i * R // r : -(-(i + 1) * R // r), j * S // s : -(-(j + 1) * S // s)].numpy()
        expected = field.max(axis=(2, 3)) if how == "max" else field.mean(axis=(2, 3))
        FLOAT64.assert_close(found[..., i, j], expected, f"field {i}, {j}")


def test_a_small_one_stays_as_it_is() -> None:
    tensor = torch.rand(3, 4)
    assert pooled(tensor, 4, how="mean") is tensor
