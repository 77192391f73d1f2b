"""Every head patched alone, and the text that follows a change."""

from __future__ import annotations

import numpy as np
import pytest
from explained_models import CONFIG, reference, some_tokens

from gptwo.base.errors import ConfigError
from gptwo.explanation import whatif
from gptwo.explanation.edits import Place
from gptwo.explanation.explain import given
from gptwo.explanation.explanation import trace
from gptwo.explanation.whatif import continuation, heat_map
from gptwo.infer import sampling
from gptwo.infer.policy import SamplingPolicy
from model_cases import SMALL
from tolerance import FLOAT64


@pytest.mark.parametrize("at_once", [1, 2, 1000], ids=lambda n: f"{n} heads at once")
@pytest.mark.parametrize(("position", "token"), [(-1, None), (4, 77)])
def test_a_heat_map_is_one_patch_after_the_other(
    position: int, token: int | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whatif, "_VALUES_AT_ONCE", at_once * 9 * CONFIG.n_embd)
    model, tokens = reference(), some_tokens(9)
    before, other = trace(model, tokens), trace(model, some_tokens(9, seed=8))
    grid = heat_map(before, other, position=position, token=token)
    chosen = int(before.logits[position].argmax()) if token is None else token
    for layer, head in np.ndindex(CONFIG.n_layer, CONFIG.n_head):
        patched = trace(model, tokens, given(other, [Place(layer, head)]))
        change = patched.logits[position, chosen] - before.logits[position, chosen]
        FLOAT64.assert_close(grid[layer, head], change, f"head {layer}.{head}")
    assert np.abs(grid).min() > 0


def test_of_a_prompt_that_is_changed_already() -> None:
    model, tokens = reference(), some_tokens(9)
    changes = {Place(1, "mlp"): "zero", Place(2, "mlp"): "mean"}
    before, other = trace(model, tokens, changes), trace(model, some_tokens(9, seed=8))
    grid = heat_map(before, other, token=3)
    patched = trace(model, tokens, changes | given(other, [Place(0, 1)]))
    FLOAT64.assert_close(grid[0, 1], patched.logits[-1, 3] - before.logits[-1, 3], "head 0.1")


def test_a_heat_map_that_is_stopped_has_the_heads_it_came_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whatif, "_VALUES_AT_ONCE", 9 * CONFIG.n_embd)
    model, tokens = reference(), some_tokens(9)
    before, other = trace(model, tokens), trace(model, some_tokens(9, seed=8))
    whole = heat_map(before, other)
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2 * (CONFIG.n_layer - 1)

    part = heat_map(before, other, stopped=stopped)
    assert np.array_equal(part[0, :2], whole[0, :2])
    assert np.isnan(part).sum() == part.size - 2


def test_prompts_of_two_lengths_have_none() -> None:
    model = reference()
    with pytest.raises(ConfigError, match="has 5 tokens; expected 4"):
        heat_map(trace(model, some_tokens(4)), trace(model, some_tokens(5)))


def test_a_continuation_is_one_pass_after_the_other() -> None:
    model, tokens = reference(), some_tokens(6)
    other = trace(model, some_tokens(6, seed=2))
    for changes in ({}, {Place(0, 1): "zero", Place(2, "mlp"): "mean"}, given(other, [Place(1, 2)])):
        written = continuation(model, tokens, max_new_tokens=9, changes=changes)
        text = tokens
        for _ in range(9):
            text = np.append(text, trace(model, text, changes).logits[-1].argmax())
        assert written == text[6:].tolist()


def test_a_continuation_draws_as_the_engine_does() -> None:
    model, tokens = reference(), some_tokens(6)
    policy = SamplingPolicy(temperature=0.9, top_k=40, top_p=0.95, repetition_penalty=1.3)
    written = continuation(model, tokens, max_new_tokens=8, policy=policy, seed=5)
    text = tokens
    for step in range(8):
        logits = trace(model, text).logits[-1]
        token = sampling.choose(logits, text, policy, prompt_tokens=6, seed=5, step=step)
        text = np.append(text, token)
    assert written == text[6:].tolist()
    assert written != continuation(model, tokens, max_new_tokens=8)


def test_a_continuation_ends_with_the_context_and_after_the_end_of_text() -> None:
    model, tokens = reference(), some_tokens(60)
    assert len(continuation(model, tokens, max_new_tokens=9)) == CONFIG.context - 60
    assert continuation(model, some_tokens(CONFIG.context), max_new_tokens=9) == []
    whole = continuation(model, tokens[:6], max_new_tokens=9)
    end = whole[3]
    assert continuation(model, tokens[:6], max_new_tokens=9, eot_id=end) == whole[: whole.index(end) + 1]


def test_of_one_head_and_one_block() -> None:
    config = SMALL["one head, one block"]
    model, tokens = reference(config), some_tokens(7, config)
    before, other = trace(model, tokens), trace(model, some_tokens(7, config, seed=3))
    patched = trace(model, tokens, given(other, [Place(0, 0)]))
    FLOAT64.assert_close(
        heat_map(before, other, token=1), [[patched.logits[-1, 1] - before.logits[-1, 1]]], "the only head"
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"position": 4}, "position 4 is not possible; expected 0 to 3"),
        ({"token": CONFIG.vocab_size}, "token=101 is not possible; expected 0 to 100"),
        ({"token": -1}, "token=-1 is not possible"),
    ],
)
def test_a_logit_that_there_is_not(asked: dict[str, int], message: str) -> None:
    found = trace(reference(), some_tokens(4))
    with pytest.raises(ConfigError, match=message):
        heat_map(found, found, **asked)
