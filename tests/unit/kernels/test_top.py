"""The k largest logits and log Σ exp z, of written logits and of products that are nowhere written."""

from __future__ import annotations

import numpy as np
import pytest

from gptwo.kernels.layout import PACKED_DTYPES, PackedDtype, pack
from gptwo.kernels.library import Kernels, open_kernels
from gptwo.kernels.top import Top

# One, less than a vector's multiple, more than a span of 512, GPT-2's own.
VOCABULARIES = [1, 63, 1000, 50257]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tied(*shape: int, seed: int = 0) -> np.ndarray:
    """Few distinct values, so that every border falls among equals."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def same_bits(one: Top, other: Top) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("V", VOCABULARIES)
@pytest.mark.parametrize("make", [normal, tied])
def test_the_largest_are_those_of_a_stable_sort(kernels: Kernels, make: type, V: int) -> None:
    z = make(3, V) * 5
    z[0, V // 3 :: 7] = -np.inf
    for k in (1, 2, 64):
        top = kernels.top(z, k)
        order = np.argsort(-z, axis=1, kind="stable")[:, :k]
        assert np.array_equal(top.ids_nk, order)
        assert np.array_equal(top.logits_nk, np.take_along_axis(z, order, axis=1))
        with np.errstate(divide="ignore"):
            expected = np.log(np.exp(z.astype(np.float64) - 5).sum(axis=1)) + 5
        np.testing.assert_allclose(top.log_sum_exp_n, expected, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("V", VOCABULARIES)
@pytest.mark.parametrize("dtype", PACKED_DTYPES)
def test_of_products_they_are_bitwise_those_of_the_written_logits(
    kernels: Kernels, dtype: PackedDtype, V: int
) -> None:
    matrix = pack(normal(V, 45), dtype)
    x_MK = normal(40 if V < 50257 else 3, 45, seed=1)
    logits = kernels.linear(matrix, x_MK)
    for k in (1, 7, 64):
        assert same_bits(kernels.head(matrix, x_MK, k), kernels.top(logits, k))


@pytest.mark.parametrize("dtype", PACKED_DTYPES)
def test_a_row_does_not_depend_on_those_beside_it_nor_on_threads(
    kernels: Kernels, dtype: PackedDtype
) -> None:
    matrix, x_MK = pack(normal(1700, 33), dtype), normal(70, 33, seed=1)
    together = kernels.head(matrix, x_MK, 5)
    others = [kernels, *(open_kernels(threads, kernels.instruction_set) for threads in (1, 5))]
    for other in others:
        for begin, end in [(0, 1), (5, 7), (3, 40), (69, 70)]:
            part = Top(*(array[begin:end] for array in together))
            assert same_bits(other.head(matrix, x_MK[begin:end], 5), part)


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 30.0, 1e4, 1e30])
def test_log_sum_exp_at_every_spread(kernels: Kernels, spread: float) -> None:
    z = normal(4, 5003) * np.float32(spread)
    z[1] -= 1000
    z[2, :4000] = -np.inf
    exact = z.astype(np.float64)
    largest = exact.max(axis=1, keepdims=True)
    expected = np.log(np.exp(exact - largest).sum(axis=1)) + largest[:, 0]
    np.testing.assert_allclose(kernels.top(z, 1).log_sum_exp_n, expected, rtol=2e-7, atol=2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 700, 1002])
def test_what_is_no_number_makes_its_row_none_and_no_other(kernels: Kernels, bad: float, place: int) -> None:
    z = normal(3, 1003)
    expected = kernels.top(z, 64)
    z[1, place] = bad
    for _ in range(2):  # what the first one leaves behind is not seen by the second
        top = kernels.top(z, 64)
        assert np.isnan(top.log_sum_exp_n[1])
        assert all(np.array_equal(a[[0, 2]], b[[0, 2]]) for a, b in zip(top, expected, strict=True))


def test_rows_without_numbers_keep_none(kernels: Kernels) -> None:
    z = np.full((2, 600), -np.inf, dtype=np.float32)
    z[1] = np.nan
    top = kernels.top(z, 3)
    assert top.ids_nk.tolist() == [[0, 1, 2], [-1, -1, -1]]
    assert (top.logits_nk == -np.inf).all()
    assert top.log_sum_exp_n[0] == -np.inf
    assert np.isnan(top.log_sum_exp_n[1])


def test_a_calls_scratch_is_not_seen_by_the_next(kernels: Kernels) -> None:
    """It has NaN wherever the first call came, which had more rows, more logits and more candidates."""
    matrix, x_MK = pack(normal(900, 20), "fp32"), normal(9, 20, seed=1)
    fresh = open_kernels(2, kernels.instruction_set)
    expected = fresh.head(matrix, x_MK, 10)
    used = open_kernels(2, kernels.instruction_set)
    used.head(pack(normal(3000, 20), "fp32"), np.full((40, 20), np.nan, np.float32), 64)
    assert same_bits(used.head(matrix, x_MK, 10), expected)


def test_less_than_one_logit_is_refused(kernels: Kernels) -> None:
    with pytest.raises(ValueError, match=r"^the 0 largest of 5 logits; expected at least 1$"):
        kernels.top(normal(2, 5), 0)
