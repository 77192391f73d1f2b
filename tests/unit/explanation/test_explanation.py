"""What an explanation says of every position, and how its tensors are had by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explained_models import CONFIG, reference, some_tokens

from gptwo.base.errors import ConfigError
from gptwo.explanation import explanation as module
from gptwo.explanation.edits import Place
from gptwo.explanation.explanation import THUMBNAIL, TOP, trace
from gptwo.explanation.reference import tensor_names
from model_cases import LONG
from tolerance import FLOAT64, Tolerance

BYTES = Tolerance(atol=1.0, why="a weight is rounded to one of 256 steps; a half may go up or down")


def log_softmax(z: np.ndarray) -> np.ndarray:
    shifted = z - z.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("T", [1, 2, 64, 65], ids=str)
def test_surprisal_entropy_and_the_most_probable(T: int) -> None:
    tokens = some_tokens(T)
    found = trace(reference(), tokens)
    log_p = log_softmax(found.logits)
    assert np.isnan(found.surprisal[0])
    FLOAT64.assert_close(found.surprisal[1:], -log_p[np.arange(T - 1), tokens[1:]], "surprisal")
    FLOAT64.assert_close(found.entropy, -(np.exp(log_p) * log_p).sum(axis=1), "entropy")
    order = np.argsort(-found.logits, axis=1)[:, :TOP]
    assert np.array_equal(found.top.ids, order)
    FLOAT64.assert_close(found.top.logits, np.take_along_axis(found.logits, order, axis=1), "top logits")
    p = np.exp(found.top.logits - found.top.log_sum_exp[:, None])
    FLOAT64.assert_close(p, np.exp(np.take_along_axis(log_p, order, axis=1)), "their probabilities")


@pytest.mark.parametrize("T", [1, 63, 64, 65])
def test_thumbnails_keep_the_largest_weight_of_each_field(T: int) -> None:
    found = trace(reference(), some_tokens(T))
    n = min(T, THUMBNAIL)
    assert found.thumbnails.shape == (CONFIG.n_layer, CONFIG.n_head, n, n)
    edges = [(i * T // n, -(-(i + 1) * T // n)) for i in range(n)]
    for layer in range(CONFIG.n_layer):
        weights = found[f"blocks.{layer}.attention"]
        expected = [[weights[:, a:b, c:d].max(axis=(1, 2)) for c, d in edges] for a, b in edges]
        BYTES.assert_close(found.thumbnails[layer], 255 * np.array(expected).transpose(2, 0, 1), "thumbnails")
    assert found.thumbnails[:, :, 0, 0].min() == 255, "the first token sees itself alone"


def test_names_lead_to_tensors() -> None:
    found = trace(reference(), some_tokens(5))
    assert list(found) == list(found.keys()) == tensor_names(CONFIG)
    assert len(found) == len(tensor_names(CONFIG))
    assert "blocks.2.attention" in found
    assert "blocks.3.attention" not in found
    assert found["blocks.0.attention"].shape == (CONFIG.n_head, 5, 5)
    for name in (
        "",
        "blocks",
        "blocks.3.attention",
        "blocks.0.attentio",
        "blocks.-1.q",
        "tokens",
        "residual ",
    ):
        with pytest.raises(ConfigError, match=r"there is no tensor.* blocks up to 2"):
            found[name]


def test_it_says_what_it_is_in_a_line() -> None:
    assert (
        repr(trace(reference(), some_tokens(5)))
        == "<Explanation of 5 tokens by the reference on cpu, weights random>"
    )
    changed = trace(reference(), some_tokens(5), {Place(0, 1): "zero", Place(2, "mlp"): "mean"})
    assert repr(changed).endswith(", 2 parts changed>")
    assert "array" not in repr(changed.worked("logits", (4, 3)))


def test_a_part_is_that_part_of_the_whole() -> None:
    found = trace(reference(), some_tokens(9))
    FLOAT64.assert_close(found.logits_at(4), found.logits[4], "a row of logits")
    FLOAT64.assert_close(found.logits_at(-1), found.logits[8], "the last row")
    for position in (9, -10):
        with pytest.raises(ConfigError, match=f"position {position} is not possible; expected 0 to 8"):
            found.logits_at(position)
        with pytest.raises(ConfigError, match=f"position {position}"):
            found.contributions(position, 0)


def test_what_was_computed_stays_the_same_in_whatever_order_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = some_tokens(33)
    first = dict(trace(reference(), tokens))
    monkeypatch.setattr(module, "_CACHE_BYTES", 1)
    again = trace(reference(), tokens)
    for name in reversed(tensor_names(CONFIG)):
        assert np.array_equal(again[name], first[name]), name
        assert len(again._blocks) <= 1, "the bound holds but for the one in use"


def test_bytes_are_those_that_it_holds() -> None:
    T = 200
    found = trace(reference(LONG, dtype=torch.float32), some_tokens(T, LONG))
    kept = (3 * LONG.n_layer + 3) * T * LONG.n_embd * 4
    assert found.nbytes == kept + found.thumbnails.nbytes == kept + LONG.n_layer * LONG.n_head * THUMBNAIL**2


def test_the_whole_context_is_explained() -> None:
    found = trace(reference(), some_tokens(CONFIG.context))
    assert found.logits.shape == (CONFIG.context, CONFIG.vocab_size)
