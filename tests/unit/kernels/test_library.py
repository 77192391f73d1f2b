"""Each kernel against its equation in float64, on every instruction set of this machine, at odd sizes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from gptwo.base.errors import ConfigError
from gptwo.kernels import library
from gptwo.kernels.cache import CacheMemory
from gptwo.kernels.layout import PACKED_DTYPES, PackedDtype, pack, unpack
from gptwo.kernels.library import Kernels, instruction_sets, open_kernels
from gptwo.model import equations
from tolerance import Tolerance

SUMS = Tolerance(atol=2e-5, rtol=2e-5, why="fp32 sums over at most 3072 products of standard normal values")
# Outputs × inputs: one, below, at and above a panel and a group; GPT-2's own.
SHAPES = [(1, 1), (32, 32), (63, 21), (33, 63), (100, 1000), (96, 3072)]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seen_by(kernels: Kernels, dtype: PackedDtype, x_MK: np.ndarray) -> np.ndarray:
    """The activations that a layer of this dtype multiplies, in float64."""
    if dtype in ("fp32", "bf16"):
        return x_MK.astype(np.float64)
    rows = []
    for x_K in x_MK:
        values, scales = kernels.quantize(x_K)
        rows.append((values * scales[:, None].astype(np.float64)).ravel()[: len(x_K)])
    return np.stack(rows)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", PACKED_DTYPES)
def test_linear_is_the_product_with_bias_gelu_and_residual(
    kernels: Kernels, dtype: PackedDtype, shape: tuple[int, int]
) -> None:
    N, K = shape
    matrix = pack(normal(N, K), dtype)
    x_MK, bias_N, residual_MN = normal(27, K, seed=1), normal(N, seed=2), normal(27, N, seed=3)
    expected = seen_by(kernels, dtype, x_MK) @ unpack(matrix).astype(np.float64).T
    scale = math.sqrt(K)
    SUMS.assert_close(kernels.linear(matrix, x_MK) / scale, expected / scale, "product")
    SUMS.assert_close(kernels.linear(matrix, x_MK, bias=bias_N) / scale, (expected + bias_N) / scale, "bias")
    activated = equations.gelu(torch.from_numpy(expected + bias_N)).numpy() + residual_MN
    got = kernels.linear(matrix, x_MK, bias=bias_N, gelu=True, residual=residual_MN)
    SUMS.assert_close(got / scale, activated / scale, "gelu and residual")


@pytest.mark.parametrize("dtype", PACKED_DTYPES)
def test_a_row_of_a_product_does_not_depend_on_those_beside_it(kernels: Kernels, dtype: PackedDtype) -> None:
    matrix = pack(normal(70, 100), dtype)
    x_MK = normal(41, 100, seed=1)
    together = kernels.linear(matrix, x_MK)
    alone = open_kernels(1, kernels.instruction_set)
    for begin, end in [(0, 1), (5, 7), (3, 16), (0, 40), (40, 41)]:
        for threads in (kernels, alone):
            assert np.array_equal(threads.linear(matrix, x_MK[begin:end]), together[begin:end])


def test_gelu_has_its_tails(kernels: Kernels) -> None:
    z = np.array([[-1e30, -50.0, -10.0, -1.0, 0.0, 1e-30, 1.0, 10.0, 1e30]], dtype=np.float32)
    got = kernels.linear(pack(np.eye(9, dtype=np.float32), "fp32"), z, gelu=True)
    exact = equations.gelu(torch.from_numpy(z[:, 1:-1].astype(np.float64))).numpy()
    np.testing.assert_allclose(got[:, 1:-1], exact, rtol=1e-5, atol=1e-7)
    assert abs(got[0, 0]) < 1e-7
    assert got[0, -1] == np.float32(1e30)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", PACKED_DTYPES)
def test_what_is_no_number_is_not_hidden(kernels: Kernels, dtype: PackedDtype, bad: float) -> None:
    x_MK = normal(3, 40)
    x_MK[1, 7] = bad
    y_MN = kernels.linear(pack(normal(33, 40), dtype), x_MK, gelu=True)
    assert not np.isfinite(y_MN[1][y_MN[1] != 0]).any()
    assert np.isfinite(y_MN[[0, 2]]).all()


@pytest.mark.parametrize("dtype", PACKED_DTYPES)
def test_a_row_of_a_matrix_is_what_was_packed(kernels: Kernels, dtype: PackedDtype) -> None:
    matrix = pack(normal(63, 45), dtype)
    for row in (0, 31, 32, 62):
        assert np.array_equal(kernels.matrix_row(matrix, row), unpack(matrix)[row])


@pytest.mark.parametrize("width", [1, 7, 63, 64, 1000])
def test_layer_norm_is_the_papers(kernels: Kernels, width: int) -> None:
    x_TD, gamma, beta = normal(5, width) * 3 + 10, normal(width, seed=1), normal(width, seed=2)
    expected = equations.layer_norm(
        *(torch.from_numpy(a.astype(np.float64)) for a in (x_TD, gamma, beta)), 1e-5
    )
    near = Tolerance(atol=2e-4, rtol=1e-5, why="fp32: a mean of 10 beside deviations of 3")
    near.assert_close(kernels.layer_norm(x_TD, gamma, beta, 1e-5), expected)


def test_activations_are_rounded_per_group(kernels: Kernels) -> None:
    x = normal(70) * np.repeat([1.0, 1e-20, 100.0], [32, 32, 6]).astype(np.float32)
    values, scales = kernels.quantize(x)
    padded = np.pad(x, (0, 26)).reshape(3, 32)
    np.testing.assert_allclose(scales, np.abs(padded).max(axis=1) / 127, rtol=1e-6)
    assert np.array_equal(np.abs(values).max(axis=1), [127, 127, 127])
    assert (np.abs(values * scales[:, None] - padded) <= scales[:, None] * 0.501).all()
    assert np.array_equal(kernels.quantize(np.zeros(32, np.float32))[1], [0.0])


CACHES = {
    "fp32": Tolerance(atol=2e-6, rtol=1e-5, why="fp32 sums over 83 positions"),
    "bf16": Tolerance(atol=2e-2, rtol=1e-2, why="keys and values keep 8 bits of their fraction"),
    "int8": Tolerance(atol=4e-2, rtol=2e-2, why="keys and values are whole multiples of their largest / 127"),
}


def poisoned_cache(heads: int, width: int, dtype: str) -> CacheMemory:
    """Every byte 255: a NaN in each place of fp32 and bf16."""
    cache = CacheMemory(layers=1, heads=heads, head_width=width, blocks=5, dtype=dtype)
    cache._memory[:] = 255
    return cache


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize(("heads", "width"), [(3, 7), (2, 64), (1, 40), (2, 1)])
def test_attention_is_the_papers_over_blocks_in_any_order(
    kernels: Kernels, heads: int, width: int, dtype: str
) -> None:
    T = 83
    q, k, v = normal(3, T, heads, width)
    table = np.array([3, 0, 4], dtype=np.int32)
    cache = poisoned_cache(heads, width, dtype)
    got = kernels.attention(cache, table, 0, q=q, k=k, v=v)
    for head in range(heads):
        Q_h, K_h, V_h = (torch.from_numpy(a[:, head].astype(np.float64)) for a in (q, k, v))
        expected = equations.attention_weights(Q_h, K_h, equations.causal_mask(Q_h)) @ V_h
        CACHES[dtype].assert_close(got[:, head], expected, f"head {head}")


@pytest.mark.parametrize("dtype", CACHES)
def test_attention_in_chunks_is_bitwise_that_at_once(kernels: Kernels, dtype: str) -> None:
    T = 83
    q, k, v = normal(3, T, 2, 24)
    whole, chunked = poisoned_cache(2, 24, dtype), poisoned_cache(2, 24, dtype)
    expected = kernels.attention(whole, np.array([0, 1, 2], np.int32), 0, q=q, k=k, v=v)
    table = np.array([4, 2, 1], np.int32)
    for begin, end in [(0, 1), (1, 34), (34, 35), (35, 83)]:
        part = kernels.attention(chunked, table, begin, q=q[begin:end], k=k[begin:end], v=v[begin:end])
        assert np.array_equal(part, expected[begin:end])


def test_attention_with_far_scores_has_no_overflow(kernels: Kernels) -> None:
    q, k, v = normal(3, 40, 1, 16) * np.array([100, 100, 1], np.float32)[:, None, None, None]
    cache = poisoned_cache(1, 16, "fp32")
    got = kernels.attention(cache, np.array([0, 1], np.int32), 0, q=q, k=k, v=v)
    Q, K, V = (torch.from_numpy(a[:, 0].astype(np.float64)) for a in (q, k, v))
    expected = equations.attention_weights(Q, K, equations.causal_mask(Q)) @ V
    Tolerance(atol=5e-3, rtol=1e-3, why="scores near 10,000 in fp32").assert_close(got[:, 0], expected)


def test_a_key_that_is_no_number_reaches_who_looks_at_it(kernels: Kernels) -> None:
    q, k, v = normal(3, 40, 1, 16)
    k[20, 0, 3] = np.nan
    got = kernels.attention(poisoned_cache(1, 16, "fp32"), np.array([0, 1], np.int32), 0, q=q, k=k, v=v)
    assert np.isfinite(got[:20]).all()
    assert np.isnan(got[20:]).all()


def test_the_hash_sees_every_byte_and_the_length(kernels: Kernels) -> None:
    content = np.random.default_rng(0).integers(0, 256, 2_500_001).astype(np.uint8)
    seen = {kernels.content_hash(content), kernels.content_hash(content[:-1]), kernels.content_hash(b"")}
    for place in (0, 31, 1 << 20, 2_000_000, 2_500_000):
        changed = content.copy()
        changed[place] ^= 1
        seen.add(kernels.content_hash(changed))
    assert len(seen) == 8
    assert kernels.content_hash(content) == open_kernels(1, kernels.instruction_set).content_hash(content)


def test_every_instruction_set_hashes_alike() -> None:
    assert len({open_kernels(2, name).content_hash(b"gptwo" * 100) for name in instruction_sets()}) == 1


def test_the_ceilings_are_numbers(kernels: Kernels) -> None:
    assert kernels.read_bandwidth(np.ones(1 << 20, np.float32), repeats=1) > 0
    assert kernels.multiply_add_peak(repeats=1) > 0


# --- Threads ----------------------------------------------------------------------------------------------------------


def test_many_threads_and_many_callers_get_what_one_gets(kernels: Kernels) -> None:
    matrix, x_MK = pack(normal(500, 64), "fp32"), normal(9, 64, seed=1)
    expected = kernels.linear(matrix, x_MK)
    crowd = open_kernels(7, kernels.instruction_set)
    wrong: list[int] = []

    def call() -> None:
        for _ in range(50):
            if not np.array_equal(crowd.linear(matrix, x_MK), expected):
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork; needs Linux or macOS")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(kernels: Kernels) -> None:
    matrix, x_MK = pack(normal(500, 64), "fp32"), normal(9, 64, seed=1)
    expected = kernels.linear(matrix, x_MK)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(kernels.linear(matrix, x_MK), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- What is refused --------------------------------------------------------------------------------------------------


def test_an_instruction_set_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'mmx' is not here; expected one of .*portable"):
        open_kernels(1, "mmx")
    monkeypatch.setenv(library.INSTRUCTION_SET_VARIABLE, "portable")
    assert open_kernels(1).instruction_set == "portable"
    monkeypatch.setenv(library.INSTRUCTION_SET_VARIABLE, "mmx")
    with pytest.raises(ConfigError, match="mmx"):
        open_kernels(1)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, 100_000])
def test_threads_that_cannot_be_are_refused(threads: int) -> None:
    with pytest.raises(ConfigError, match=r"threads=.* expected a whole number"):
        open_kernels(threads)


def test_arrays_of_another_kind_are_refused(kernels: Kernels) -> None:
    matrix = pack(normal(32, 32), "fp32")
    for x in (np.zeros((2, 32)), np.zeros((32, 2), np.float32).T, np.zeros(32, np.float32)):
        with pytest.raises(ValueError, match="expected contiguous float32"):
            kernels.linear(matrix, x)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on address space: Linux")
def test_threads_that_the_system_refuses_are_an_error_and_not_an_end() -> None:
    code = (
        "import resource; from gptwo.kernels.library import open_kernels; open_kernels(1); "
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); open_kernels(1024)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "MemoryError: cannot start 1024 threads" in ran.stderr


def test_an_int8_cache_does_not_hide_what_is_no_number(kernels: Kernels) -> None:
    q, k, v = normal(3, 40, 1, 16)
    v[20, 0, 3] = np.nan
    got = kernels.attention(poisoned_cache(1, 16, "int8"), np.array([0, 1], np.int32), 0, q=q, k=k, v=v)
    assert np.isfinite(got[:20]).all()
    assert np.isnan(got[20:]).all()
