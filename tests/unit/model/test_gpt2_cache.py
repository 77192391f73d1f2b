"""Keys and values kept from before change no logit: token by token, in chunks, whole; and the context is a limit."""

from __future__ import annotations

import pytest
import torch

from gptwo.base.errors import ContextLengthError
from gptwo.config import GPT2Config
from gptwo.model import GPT2
from model_cases import LONG, SMALL, PlainCache, random_model, random_tokens
from tolerance import FLOAT64

CONFIG = SMALL["odd widths"]


def in_chunks(model: GPT2, tokens: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    cache = PlainCache()
    assert sum(sizes) == tokens.shape[1]
    logits = [model(chunk, cache=cache) for chunk in tokens.split(sizes, dim=1)]
    assert cache.length == tokens.shape[1]
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL.keys())
@pytest.mark.parametrize(
    "sizes", [[1] * 63, [63], [1, 61, 1], [30, 1, 1, 29, 2], [2, 3, 58]], ids=lambda s: f"{len(s)} chunks"
)
def test_cached_equals_whole(config: GPT2Config, sizes: list[int]) -> None:
    model = random_model(config)
    tokens = random_tokens(config, 3, 63)
    with torch.no_grad():
        FLOAT64.assert_close(in_chunks(model, tokens, sizes), model(tokens))


def test_cached_equals_whole_up_to_the_last_position_of_a_long_context() -> None:
    model = random_model(LONG)
    tokens = random_tokens(LONG, 1, LONG.context)
    with torch.no_grad():
        FLOAT64.assert_close(in_chunks(model, tokens, [1000, 23, 1]), model(tokens))


def test_no_later_token_is_seen() -> None:
    model = random_model(CONFIG)
    tokens = random_tokens(CONFIG, 1, 20)
    changed = tokens.clone()
    changed[0, 12] = (changed[0, 12] + 1) % CONFIG.vocab_size
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    FLOAT64.assert_close(after[:, :12], before[:, :12])
    assert ((after - before)[0, 12:].abs().amax(dim=-1) > 1e-3).all()


def test_a_row_of_a_batch_is_that_row_alone() -> None:
    model = random_model(CONFIG)
    tokens = random_tokens(CONFIG, 3, 20)
    with torch.no_grad():
        batch = in_chunks(model, tokens, [12, 8])
        for row in range(3):
            FLOAT64.assert_close(batch[row], model(tokens[row : row + 1])[0])


def test_last_only() -> None:
    model = random_model(CONFIG)
    tokens = random_tokens(CONFIG, 2, 9)
    with torch.no_grad():
        last = model(tokens, last_only=True)
        assert last.shape == (2, 1, CONFIG.vocab_size)
        FLOAT64.assert_close(last, model(tokens)[:, -1:])


def test_past_the_context_is_an_error() -> None:
    model = random_model(CONFIG)
    C = CONFIG.context
    with pytest.raises(
        ContextLengthError, match=f"^{C + 1} tokens are more than the model's context of {C}; "
    ):
        model(random_tokens(CONFIG, 1, C + 1))

    cache = PlainCache()
    with torch.no_grad():
        model(random_tokens(CONFIG, 1, C - 1), cache=cache)
        with pytest.raises(ContextLengthError, match=f"^{C + 1} tokens"):
            model(random_tokens(CONFIG, 1, 2), cache=cache)
        assert cache.length == C - 1, "a refused call leaves the cache as it was"
        model(random_tokens(CONFIG, 1, 1), cache=cache)
        with pytest.raises(ContextLengthError, match=f"^{C + 1} tokens"):
            model(random_tokens(CONFIG, 1, 1), cache=cache)
