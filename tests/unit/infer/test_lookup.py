"""Prompt lookup changes how many passes a text takes, and nothing else of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gptwo.base.errors import ConfigError
from gptwo.infer.generate import result_of, write
from gptwo.infer.lookup import PromptLookup
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.task import Generation, Task
from gptwo.tokenizer import build_byte
from scripted_engine import ScriptedEngine, script

BYTES = build_byte()
EOT = BYTES.eot_id
assert EOT is not None

# --- The guesses ------------------------------------------------------------------------------------------------------


def guess(text: bytes, most: int = 4) -> bytes:
    return bytes(PromptLookup([*text]).guess(most))


def test_it_guesses_what_followed_the_last_three_tokens() -> None:
    assert guess(b"abcdefgh abc") == b"defg"
    assert guess(b"abcdefgh abc", most=2) == b"de"
    assert guess(b"abcdefgh abc", most=0) == b""


def test_of_several_occurrences_the_newest_counts() -> None:
    assert guess(b"abc1.... abc2.... abc") == b"2..."


def test_three_tokens_come_before_two_and_two_before_one() -> None:
    assert guess(b"abc1 xbc2 yc3 abc", most=1) == b"1"
    assert guess(b"abc1 xbc2 yc3 .bc", most=1) == b"2"
    assert guess(b"abc1 xbc2 yc3 ..c", most=1) == b"3"
    assert guess(b"abc1 xbc2 yc3 ..d") == b""


def test_a_loop_goes_on() -> None:
    assert guess(b"xyxyx") == b"yxyx"
    assert guess(b"aa") == b"aaaa"


def test_a_text_that_grows_equals_one_that_is_there_at_once() -> None:
    choose = np.random.default_rng(0)
    text = choose.integers(0, 4, 300).tolist()
    growing = PromptLookup(text[:5])
    for end in range(5, 300):
        assert growing.guess(4) == PromptLookup(text[:end]).guess(4)
        growing.extend(text[end : end + 1])


def counts(right: Sequence[int], token: int = 0) -> list[int]:
    """How many tokens are guessed in a row of guesses of which so many were right, a token after each."""
    lookup, found = PromptLookup([token] * 9), []
    for number in right:
        guessed = len(lookup.guess(100))
        found.append(guessed)
        lookup.extend([token])
        if guessed:
            lookup.learn(guessed, min(number, guessed))
    return found


def test_guesses_grow_while_they_are_right_and_shrink_when_they_are_wrong() -> None:
    assert counts([100] * 4) == [4, 8, 16, 16]
    assert counts([3, 1, 3]) == [4, 4, 4], "some were right"
    assert counts([0, 0, 0]) == [4, 2, 1]
    assert counts([0, 0, 1, 2, 0]) == [4, 2, 1, 2, 4]


def test_guesses_rest_ever_longer_when_they_are_never_right() -> None:
    found = counts([0] * 200)
    assert found[:3] == [4, 2, 1]
    rests = [len(part) for part in "".join(map(str, found[3:])).split("1")]
    assert rests[:7] == [1, 2, 4, 8, 16, 32, 32]
    assert sum(found) < 20, "a text without repetition costs little"
    once = counts([*[0] * 7, 1, 0, 1])
    assert once == [4, 2, 1, 0, 1, 0, 0, 1, 2, 1]


# --- The texts --------------------------------------------------------------------------------------------------------


class Chain(ScriptedEngine):
    """Logits that follow from the last two tokens, over few ids: texts that repeat themselves often, never quite."""

    def after(self, tokens: list[int]) -> np.ndarray:
        logits = np.full(257, -30.0, dtype=np.float32)
        letters = np.random.default_rng(tokens[-2:]).normal(0.0, 4.0, 5)
        logits[[*b"abc\n", EOT]] = letters - np.array([0, 0, 0, 0, 6.0])
        # Every place has bits of its own.
        return logits + np.float32(1e-5) * np.float32(len(tokens))


def generated(engine: ScriptedEngine, prompts: Sequence[Sequence[int]], **settings: Any) -> list[Generation]:
    task = Task(prompts=[np.array([*prompt]) for prompt in prompts], **settings)
    return result_of(write(engine, BYTES, task))


PROMPTS = [b"abcab", b"a", b"ccab\nabc", b"abcab", b"b\n"]
POLICIES = {
    "greedy": SamplingPolicy(temperature=0.0, seed=0),
    "sampled": SamplingPolicy(temperature=0.7, top_p=0.95, seed=3),
    "sampled flat": SamplingPolicy(temperature=3.0, seed=3),
    "penalised": SamplingPolicy(repetition_penalty=1.1, frequency_penalty=0.1, seed=1, logit_bias={97: 1.0}),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("stop", [[], ["ab\na", "ccc"]], ids=["", "stop strings"])
@pytest.mark.parametrize(("context", "slide"), [(1000, False), (37, False), (37, True)])
@pytest.mark.parametrize("batch", [1, 3])
def test_texts_and_logprobs_are_the_same_bit_by_bit(
    policy: SamplingPolicy, stop: list[str], context: int, slide: bool, batch: int
) -> None:
    plain, looking = Chain(lambda _: 0, context=context), Chain(lambda _: 0, context=context)
    settings: dict[str, Any] = {
        "policy": policy,
        "max_new_tokens": 90,
        "stop": stop,
        "slide": slide,
        "batch": batch,
    }
    without = generated(plain, PROMPTS, **settings)
    with_lookup = generated(looking, PROMPTS, **settings, lookup=True)
    assert with_lookup == without
    assert sum(map(len, looking.passes)) < sum(map(len, plain.passes)), "no guess was right"


def test_all_ends_occur_above() -> None:
    reasons = set()
    for policy in POLICIES.values():
        for stop in ([], ["ab\na", "ccc"]):
            for generation in generated(
                Chain(lambda _: 0, context=37), PROMPTS, policy=policy, max_new_tokens=90, stop=stop
            ):
                ended_by = "eot" if generation.tokens[-1] == EOT else generation.finish_reason
                reasons.add((ended_by, generation.notice is not None))
    assert reasons == {("eot", False), ("stop", False), ("length", True)}


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3, 29, 30])
def test_no_more_is_read_than_may_be_written(max_new_tokens: int) -> None:
    engine = ScriptedEngine(lambda tokens: b"abc"[len(tokens) % 3], context=40)
    (generation,) = generated(
        engine,
        [b"abcabcabc"],
        policy=POLICIES["greedy"],
        max_new_tokens=max_new_tokens,
        lookup=True,
    )
    assert len(generation.tokens) == max_new_tokens
    # Beyond the prompt and the last token, what is read is what was written: every guess was right.
    assert sum(sum(counts) for counts in engine.passes) == 9 + max_new_tokens - 1


def test_a_text_that_repeats_itself_takes_few_passes_and_another_no_more_than_without() -> None:
    loop = ScriptedEngine(lambda tokens: b"abcdefg"[len(tokens) % 7])
    (generation,) = generated(
        loop, [b"abcdefg" * 2], policy=POLICIES["greedy"], max_new_tokens=200, lookup=True
    )
    assert len(generation.tokens) == 200
    assert len(loop.passes) <= 3 + 200 / 17 + 1  # 1 + 4, 1 + 8, then 1 + 16 tokens in a pass

    random = np.random.default_rng(0).integers(0, 256, 200).tolist()
    none = ScriptedEngine(script(2, random))
    generated(none, [b"ab"], policy=POLICIES["greedy"], max_new_tokens=200, lookup=True)
    assert len(none.passes) <= 200
    assert sum(sum(counts) for counts in none.passes) <= 1.15 * 200


def test_a_guess_that_holds_the_end_of_the_text_ends_it() -> None:
    ending = [*b"ab.", EOT]
    engine = ScriptedEngine(lambda tokens: ending[len(tokens) % 4])
    settings: dict[str, Any] = {"policy": POLICIES["greedy"], "max_new_tokens": 50, "lookup": True}
    (generation,) = generated(engine, [[*ending, ord("a")]], **settings)
    assert generation.tokens == [*b"b.", EOT]
    assert engine.passes == [[5], [5]]


class Promiseless(ScriptedEngine):
    batch_invariant = False


def test_an_engine_that_is_not_batch_invariant_is_refused_at_once() -> None:
    task = Task(prompts=[np.array([1])], policy=POLICIES["greedy"], max_new_tokens=2, lookup=True)
    with pytest.raises(ConfigError, match=r"^lookup=True needs [^\n]* a script does not promise [^\n]+$"):
        write(Promiseless(script(1, b"ab")), BYTES, task)
