"""The bounds that rounding promises, over weights of every size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptwo.kernels.rounding import from_bfloat16, round_to_int4, round_to_int8, to_bfloat16

# Where bfloat16 itself has no eight digits left, a scale is off by up to half its last place, times the largest q.
_SUBNORMAL = 128 * 2.0**-133
_float32s = st.floats(-(2.0**110), 2.0**110, width=32)


@st.composite
def groups(draw: st.DrawFn) -> np.ndarray:
    """Groups × 32 × outputs: normal weights of any magnitude, with a few that the search would not think of."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 3)), 32, draw(st.integers(1, 4)))
    magnitude = 2.0 ** draw(st.integers(-140, 100))
    values = rng.standard_normal(shape) * magnitude
    for _ in range(draw(st.integers(0, 5))):
        values[tuple(rng.integers(shape))] = draw(_float32s)
    if draw(st.booleans()):
        values[0, :, 0] = draw(st.sampled_from([0.0, magnitude, -magnitude]))
    return values.astype(np.float32)


@settings(max_examples=200)
@given(groups())
def test_int8_is_within_half_a_step(weights: np.ndarray) -> None:
    q, scale_bits = round_to_int8(weights)
    scale = from_bfloat16(scale_bits).astype(np.float64)
    assert q.dtype == np.int8
    assert np.abs(q.astype(int)).max() <= 127
    largest = np.abs(weights).max(axis=-2).astype(np.float64)
    # Rounded up from max|w| / 127, which float32 itself may have rounded down.
    assert (scale >= largest / 127 * (1 - 2.0**-23) - 2.0**-149).all()
    assert (scale <= largest / 127 * (1 + 2.0**-7) + 2.0**-133).all()
    error = np.abs(weights.astype(np.float64) - q * scale[..., None, :])
    assert (error <= scale[..., None, :] * (0.5 + 2.0**-15) + 2.0**-149 * 127).all()


@settings(max_examples=200)
@given(groups())
def test_int4_is_no_worse_than_the_largest_weight_on_minus_eight(weights: np.ndarray) -> None:
    q, scale_bits = round_to_int4(weights)
    scale = from_bfloat16(scale_bits).astype(np.float64)
    assert q.dtype == np.int8
    assert q.min() >= -8
    assert q.max() <= 7
    error = weights.astype(np.float64) - q * scale[..., None, :]
    largest = np.abs(weights).max(axis=-2).astype(np.float64)
    bound = np.sqrt(32) * ((1 + 2.0**-5) * largest / 8 + _SUBNORMAL)
    assert (np.sqrt((error**2).sum(axis=-2)) <= bound).all()


def test_the_search_beats_its_first_guess_and_comes_near_the_best() -> None:
    weights = np.random.default_rng(0).standard_normal((50, 32, 8)).astype(np.float32)
    q, scale_bits = round_to_int4(weights)
    scale = from_bfloat16(scale_bits)
    found = ((weights - q * scale[:, None, :]) ** 2).sum(axis=1)

    def error_with(scale: np.ndarray) -> np.ndarray:
        rounded = np.clip(np.rint(weights / scale[:, None, :]), -8, 7)
        return ((weights - rounded * scale[:, None, :]) ** 2).sum(axis=1)

    extreme = np.take_along_axis(weights, np.abs(weights).argmax(axis=1)[:, None], axis=1)[:, 0]
    first = error_with(from_bfloat16(to_bfloat16(-extreme / 8)))
    best = np.min(
        [error_with(sign * f * extreme / 8) for f in np.linspace(0.5, 1.3, 400) for sign in (1, -1)], axis=0
    )
    assert (found <= first * (1 + 1e-5)).all()
    assert found.mean() < 0.92 * first.mean()
    assert found.mean() < 1.06 * best.mean()


def test_weights_on_the_grid_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    for rounding, low, high in ((round_to_int8, -127, 127), (round_to_int4, -8, 7)):
        q = rng.integers(low, high, (20, 32, 5), endpoint=True)
        q[:, 3] = low
        scale = from_bfloat16(to_bfloat16(rng.uniform(0.01, 1, (20, 5)).astype(np.float32)))
        got_q, got_bits = rounding((q * scale[:, None]).astype(np.float32))
        assert np.array_equal(got_q, q)
        assert np.array_equal(from_bfloat16(got_bits), scale)


def test_zeros_have_scale_zero() -> None:
    for rounding in (round_to_int8, round_to_int4):
        q, scale_bits = rounding(np.zeros((2, 32, 3), dtype=np.float32))
        assert not q.any()
        assert not (scale_bits & 0x7FFF).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_finite_number_is_refused(value: float) -> None:
    weights = np.ones((1, 32, 2), dtype=np.float32)
    weights[0, 5, 1] = value
    for rounding in (round_to_int8, round_to_int4):
        with pytest.raises(ValueError, match="no finite numbers"):
            rounding(weights)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
@example([0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x3F808000, 0x3F818000, 0x80000000])
def test_bfloat16_is_torchs(patterns: list[int]) -> None:
    values = np.array(patterns, dtype=np.uint32).view(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16)
    got = to_bfloat16(values)
    numbers = ~np.isnan(values)
    assert np.array_equal(got[numbers], expected.view(torch.int16).numpy().view(np.uint16)[numbers])
    assert np.isnan(from_bfloat16(got)[~numbers]).all()
    assert np.array_equal(from_bfloat16(got)[numbers], expected.float().numpy()[numbers])
