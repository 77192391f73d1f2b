"""What the model would say after each block, by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from explained_models import CONFIG, reference, some_tokens

from gptwo.base.errors import ConfigError
from gptwo.explanation.explanation import trace
from tolerance import FLOAT64


def expected(found: object, k: int) -> tuple[np.ndarray, np.ndarray]:
    """ids and p of every layer and position."""
    E, gamma, beta = (
        found.reference.parameters[name].numpy()
        for name in ("token_embedding.weight", "final_norm.weight", "final_norm.bias")
    )
    names = [*(f"blocks.{i}.input" for i in range(CONFIG.n_layer)), f"blocks.{CONFIG.n_layer - 1}.output"]
    x = np.stack([found[name] for name in names])
    centred = x - x.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + CONFIG.layer_norm_epsilon)
    z = (gamma * normed + beta) @ E.T
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    ids = np.argsort(-p, axis=-1)[..., :k]
    return ids, np.take_along_axis(p, ids, axis=-1)


@pytest.mark.parametrize("k", [1, 2, CONFIG.vocab_size])
def test_of_every_layer_and_position(k: int) -> None:
    found = trace(reference(), some_tokens(13))
    ids, p = expected(found, k)
    lens = found.lens(k=k)
    assert np.array_equal(lens.ids, ids)
    FLOAT64.assert_close(lens.probabilities, p, "probabilities")


def test_the_last_layer_says_what_the_model_says() -> None:
    found = trace(reference(), some_tokens(13))
    assert np.array_equal(found.lens(k=5).ids[-1], found.top.ids[:, :5])


def test_positions_are_a_part() -> None:
    found = trace(reference(), some_tokens(13))
    whole, part = found.lens(k=3), found.lens(k=3, positions=slice(4, 7))
    assert np.array_equal(part.ids, whole.ids[:, 4:7])
    FLOAT64.assert_close(part.probabilities, whole.probabilities[:, 4:7], "a part")


@pytest.mark.parametrize("k", [0, -1, CONFIG.vocab_size + 1])
def test_more_than_there_are_is_refused(k: int) -> None:
    with pytest.raises(ConfigError, match=f"k={k} is not possible; expected 1 to {CONFIG.vocab_size}"):
        trace(reference(), some_tokens(3)).lens(k=k)
