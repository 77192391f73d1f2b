"""Any entry of any tensor, worked by hand, is that entry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from explained_models import CONFIG, reference, some_tokens

from gptwo.base.errors import ConfigError
from gptwo.explanation.edits import Place
from gptwo.explanation.explanation import Explanation, trace
from gptwo.explanation.reference import BLOCK_NAMES, tensor_names
from gptwo.explanation.worked import Worked
from tolerance import FLOAT64, Tolerance

FLOAT32 = Tolerance(
    atol=2e-5, rtol=2e-5, why="the tensor is float32; the entry is worked in float64 of its parents"
)
KINDS = {
    "embedding": "sum", "input": "sum", "attention_norm": "norm", "q": "dot", "k": "dot", "v": "dot", "scores": "dot",
    "attention": "softmax", "heads": "dot", "head_outputs": "dot", "attention_output": "dot", "middle": "sum",
    "mlp_norm": "norm", "mlp_up": "dot", "mlp_gelu": "gelu", "mlp_output": "dot", "output": "sum",
    "final_norm": "norm", "logits": "dot",
}  # fmt: skip
AXES = {
    "q": "D", "k": "D", "v": "D", "scores": "K", "heads": "T", "head_outputs": "K", "attention_output": "D",
    "mlp_up": "D", "mlp_output": "F", "logits": "D",
}  # fmt: skip


def entries(found: Explanation, name: str) -> list[tuple[int, ...]]:
    """The corners, and some in between; a token does not see those after it."""
    shape = found[name].shape
    random = np.random.default_rng(1)
    chosen = {tuple(0 for _ in shape), tuple(n - 1 for n in shape)}
    chosen |= {tuple(int(random.integers(n)) for n in shape) for _ in range(4)}
    return sorted(chosen)


def by_its_formula(entry: Worked) -> float:
    """The result again, from the numbers that are shown."""
    part = entry.parts
    if entry.kind == "dot":
        return (float((entry.a * entry.b).sum()) + part.get("bias", 0.0)) / part.get("divisor", 1.0)
    if entry.kind == "sum":
        return sum(part.values())
    if entry.kind == "norm":
        scaled = (part["x"] - part["mean"]) / math.sqrt(part["variance"] + part["epsilon"])
        return part["gamma"] * scaled + part["beta"]
    if entry.kind == "softmax":
        return math.exp(part["score"] - part["max"]) / part["sum"]
    if entry.kind == "gelu":
        z = part["z"]
        return z / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    assert entry.kind == "masked"
    return 0.0


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)], ids=["fp64", "fp32"]
)
def test_entries_are_what_their_formulas_give(dtype: torch.dtype, tolerance: Tolerance) -> None:
    found = trace(reference(dtype=dtype), some_tokens(9))
    for name in tensor_names(CONFIG):
        part = name.rpartition(".")[2]
        for index in entries(found, name):
            entry = found.worked(name, index)
            unseen = part == "attention" and index[2] > index[1]
            assert entry.kind == ("masked" if unseen else KINDS[part]), name
            assert entry.axis == AXES.get(part), name
            assert entry.value == found[name][index]
            tolerance.assert_close(entry.result, entry.value, f"{name}{index}")
            FLOAT64.assert_close(by_its_formula(entry), entry.result, f"{name}{index}")


def test_every_tensor_of_a_block_has_a_formula() -> None:
    assert set(KINDS) == {*BLOCK_NAMES, "embedding", "final_norm", "logits"}


def test_the_terms_are_rows_and_columns_of_the_matrices() -> None:
    found = trace(reference(), some_tokens(9))
    parameters = found.reference.parameters
    entry = found.worked("blocks.1.k", (2, 4, 3))
    row = CONFIG.n_embd + 2 * CONFIG.head_width + 3
    assert np.array_equal(entry.a, found["blocks.1.attention_norm"][4])
    assert np.array_equal(entry.b, parameters["blocks.1.attention.qkv.weight"][row].numpy())
    assert entry.parts == {"bias": float(parameters["blocks.1.attention.qkv.bias"][row])}
    entry = found.worked("blocks.0.scores", (1, 5, 2))
    assert np.array_equal(entry.a, found["blocks.0.q"][1, 5])
    assert np.array_equal(entry.b, found["blocks.0.k"][1, 2])
    assert entry.parts == {"divisor": math.sqrt(CONFIG.head_width)}
    entry = found.worked("blocks.0.heads", (1, 5, 2))
    assert len(entry.a) == 6, "position 5 sees six tokens"
    assert set(found.worked("embedding", (3, 4)).parts) == {"E", "P"}
    assert set(found.worked("blocks.1.input", (3, 4)).parts) == {"middle", "mlp_output"}
    assert set(found.worked("blocks.1.middle", (3, 4)).parts) == {"input", "attention_output"}


def test_the_largest_terms_and_the_rest_are_all_of_it() -> None:
    entry = trace(reference(), some_tokens(9)).worked("logits", (8, 33))
    products = entry.a * entry.b
    for count in (0, 1, 5, 21, 100):
        shown, rest = entry.largest_terms(count)
        assert shown == sorted(shown)
        assert len(shown) == min(count, 21)
        FLOAT64.assert_close(products[shown].sum() + rest, products.sum(), "shown and rest")
        left = np.delete(np.abs(products), shown)
        assert not (len(shown) and len(left)) or np.abs(products[shown]).min() >= left.max()


def test_what_was_changed_says_so() -> None:
    found = trace(reference(), some_tokens(9), {Place(1, 0): "zero", Place(0, "mlp"): "mean"})
    for name, index in (("blocks.1.heads", (0, 3, 2)), ("blocks.0.mlp_output", (3, 2))):
        entry = found.worked(name, index)
        assert entry.kind == "changed"
        assert entry.result == entry.value == found[name][index]
    assert found.worked("blocks.1.heads", (1, 3, 2)).kind == "dot"
    # What follows a change follows from it.
    for name in ("blocks.0.output", "blocks.1.attention_output", "blocks.2.q", "logits"):
        for index in entries(found, name):
            entry = found.worked(name, index)
            FLOAT64.assert_close(entry.result, entry.value, name)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("embedding", (9, 0)), ("embedding", (0, 21)), ("embedding", (-1, 0)), ("embedding", (0,)),
        ("embedding", (0, 0, 0)), ("blocks.0.q", (3, 0, 0)), ("blocks.0.q", (0, 0)), ("logits", (0, 101)),
    ],
)  # fmt: skip
def test_an_entry_that_there_is_not(name: str, index: tuple[int, ...]) -> None:
    found = trace(reference(), some_tokens(9))
    with pytest.raises(ConfigError, match=r"has the shape .* expected an index below it"):
        found.worked(name, index)


def test_a_tensor_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"there is no tensor .blocks\.9\.q."):
        trace(reference(), some_tokens(9)).worked("blocks.9.q", (0, 0, 0))
