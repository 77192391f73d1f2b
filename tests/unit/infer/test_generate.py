from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gptwo.base.errors import CheckpointError, ConfigError, ContextLengthError
from gptwo.config import GPT2Config
from gptwo.infer import sampling
from gptwo.infer.engine import Engine
from gptwo.infer.engines import load_engine
from gptwo.infer.generate import write
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.task import Generation, Task
from gptwo.tokenizer import Tokenizer, build_byte
from random_checkpoint import write_random_checkpoint
from scripted_engine import ScriptedEngine, script
from tolerance import FLOAT64

BYTES = build_byte()
EOT = BYTES.eot_id
assert EOT is not None
CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=12, vocab_size=257)
CERTAINLY = SamplingPolicy(seed=0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = write_random_checkpoint(tmp_path_factory.mktemp("models"), CONFIG)
    return load_engine(folder, engine="torch", device="cpu", dtype="fp64")


def batch_written(
    engine: Engine, prompts: Sequence[Sequence[int]], *, tokenizer: Tokenizer | None = BYTES, **settings: Any
) -> tuple[list[tuple[int, str]], list[Generation]]:
    settings = {"policy": CERTAINLY, "max_new_tokens": 100} | settings
    task = Task(prompts=[np.array(prompt) for prompt in prompts], **settings)
    run = write(engine, tokenizer, task)
    pieces: list[tuple[int, str]] = []
    while True:
        try:
            pieces.append(next(run))
        except StopIteration as end:
            return pieces, end.value


def written(
    engine: Engine, prompt: Sequence[int], *, num: int = 1, **settings: Any
) -> tuple[list[tuple[int, str]], list[Generation]]:
    return batch_written(engine, [prompt] * num, **settings)


def one(engine: Engine, prompt: Sequence[int], **settings: Any) -> Generation:
    (generation,) = written(engine, prompt, **settings)[1]
    return generation


# --- How a text ends --------------------------------------------------------------------------------------------------


def test_end_of_text_ends_it_and_is_a_token_but_no_text() -> None:
    generation = one(ScriptedEngine(script(2, [*b"hello", EOT])), [1, 2])
    assert (generation.text, generation.finish_reason) == ("hello", "stop")
    assert generation.tokens == [*b"hello", EOT]
    assert generation.prompt_tokens == 2
    assert generation.notice is None


def test_max_new_tokens_ends_it() -> None:
    engine = ScriptedEngine(script(1, b"hello"))
    generation = one(engine, [1], max_new_tokens=3)
    assert (generation.text, generation.tokens, generation.finish_reason) == ("hel", [*b"hel"], "length")
    assert engine.passes == [[1]] * 3, "the last token was read for nothing"


def test_a_stop_string_over_several_tokens_ends_it_and_is_cut() -> None:
    pieces, (generation,) = written(ScriptedEngine(script(1, b"one\nEND\ntwo")), [1], stop=["\nEND"])
    assert (generation.text, generation.finish_reason) == ("one", "stop")
    assert generation.tokens == [*b"one\nEND"]
    assert "".join(piece for _, piece in pieces) == "one"


def test_the_beginning_of_a_stop_string_is_given_out_when_the_text_ends_there() -> None:
    pieces, (generation,) = written(ScriptedEngine(script(1, [*b"xEN", EOT])), [1], stop=["END"])
    assert [piece for _, piece in pieces] == ["x", "", "", "EN"]
    assert generation.text == "xEN"


def test_a_character_over_several_tokens_comes_whole() -> None:
    pieces, _ = written(ScriptedEngine(script(1, [*"aé😀".encode(), EOT])), [1])
    assert [piece for _, piece in pieces] == ["a", "", "é", "", "", "", "😀", ""]


def test_a_character_that_never_becomes_whole_is_shown_as_such_at_the_end() -> None:
    pieces, (generation,) = written(ScriptedEngine(script(1, "a😀".encode())), [1], max_new_tokens=3)
    assert [piece for _, piece in pieces] == ["a", "", "\ufffd"]
    assert generation.text == "a\ufffd"


def test_without_a_tokenizer_tokens_are_written_and_the_notice_says_so() -> None:
    generation = one(ScriptedEngine(script(1, [5, EOT, 7])), [1], tokenizer=None, max_new_tokens=3)
    assert (generation.tokens, generation.text) == ([5, EOT, 7], "")
    assert generation.notice is not None
    assert "no tokenizer" in generation.notice


# --- Several texts ----------------------------------------------------------------------------------------------------


def test_texts_of_one_prompt_end_on_their_own_and_cost_nothing_after() -> None:
    # The first byte of each text is drawn evenly, and says how many more there are.
    class Uneven(ScriptedEngine):
        def after(self, tokens: list[int]) -> np.ndarray:
            if len(tokens) > 1:
                return super().after(tokens)
            logits = np.full(257, -1e9, dtype=np.float32)
            logits[[ord("1"), ord("2"), ord("3")]] = 0.0
            return logits

    engine = Uneven(lambda tokens: EOT if len(tokens) > tokens[1] - ord("0") + 1 else ord("x"))
    pieces, generations = written(engine, [1], num=6)
    assert {g.text for g in generations} == {"1x", "2xx", "3xxx"}
    lengths = [int(g.text[0]) for g in generations]
    slots = [1, 6, 6, sum(n >= 2 for n in lengths), sum(n >= 3 for n in lengths)]
    assert [len(tokens) for tokens in engine.passes] == slots, "the prompt is read once"
    for number, generation in enumerate(generations):
        assert "".join(piece for i, piece in pieces if i == number) == generation.text
        assert generation.finish_reason == "stop"


def count_down(tokens: list[int]) -> int:
    """A prompt of one digit is followed by those below it, and the end."""
    return tokens[-1] - 1 if tokens[-1] > ord("0") else EOT


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 20])
def test_a_slot_that_is_free_is_given_to_the_next_prompt(batch: int) -> None:
    engine = ScriptedEngine(count_down)
    pieces, generations = batch_written(engine, [[digit] for digit in b"5190273"], batch=batch)
    assert [g.text for g in generations] == ["43210", "0", "876543210", "", "10", "6543210", "210"]
    for number, generation in enumerate(generations):
        assert "".join(piece for i, piece in pieces if i == number) == generation.text
    # A token of a text costs its slot one pass, and what waits or has ended costs none.
    assert sum(len(counts) for counts in engine.passes) == sum(len(g.tokens) for g in generations)
    assert max(len(counts) for counts in engine.passes) == min(batch, 7)


def test_no_slot_is_left_without_a_text_while_one_waits() -> None:
    pieces, _ = batch_written(ScriptedEngine(count_down), [[digit] for digit in b"5190273"], batch=2)
    in_turn = [(0, 1), (0, 1), (0, 2), (0, 2), (0, 2), (0, 2), (2, 3), (2, 4)]
    assert [number for number, _ in pieces[:16]] == [number for pair in in_turn for number in pair]


def test_prompts_of_several_lengths_are_written_side_by_side(engine: Engine) -> None:
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [1, 2, 3], [11, 12]]
    policy = SamplingPolicy(seed=5, temperature=1.5, repetition_penalty=1.2, frequency_penalty=0.3)
    for batch in (1, 2, 5):
        _, together = batch_written(engine, prompts, policy=policy, max_new_tokens=9, batch=batch, slide=True)
        for i, (prompt, generation) in enumerate(zip(prompts, together, strict=True)):
            alone = one(engine, prompt, policy=replace(policy, seed=5 + i), max_new_tokens=9, slide=True)
            assert (alone.tokens, alone.text, alone.notice) == (
                generation.tokens,
                generation.text,
                generation.notice,
            )
            assert (generation.seed, generation.prompt_tokens) == (5 + i, len(prompt))
            FLOAT64.assert_close(alone.logprobs, generation.logprobs)


def test_text_i_is_that_of_seed_plus_i_alone(engine: Engine) -> None:
    policy = SamplingPolicy(seed=5, temperature=1.5, repetition_penalty=1.2)
    _, together = written(engine, [1, 2, 3], num=4, policy=policy, max_new_tokens=9)
    assert len({tuple(g.tokens) for g in together}) == 4
    for i, generation in enumerate(together):
        alone = one(
            engine,
            [1, 2, 3],
            policy=SamplingPolicy(seed=5 + i, temperature=1.5, repetition_penalty=1.2),
            max_new_tokens=9,
        )
        assert (alone.tokens, alone.text, alone.seed) == (generation.tokens, generation.text, 5 + i)
        FLOAT64.assert_close(alone.logprobs, generation.logprobs)


def test_a_seed_that_was_not_given_is_told_and_gives_the_text_again(engine: Engine) -> None:
    first = one(engine, [1], policy=SamplingPolicy(), max_new_tokens=8)
    assert one(engine, [1], policy=SamplingPolicy(seed=first.seed), max_new_tokens=8) == first
    others = {tuple(one(engine, [1], policy=SamplingPolicy(), max_new_tokens=8).tokens) for _ in range(5)}
    assert len(others | {tuple(first.tokens)}) > 1


# --- The context ------------------------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(engine: Engine) -> None:
    for slide in (False, True):
        with pytest.raises(ContextLengthError, match=r"^the prompt has 13 tokens; [^\n]* 12; [^\n]+$"):
            one(engine, [1] * 13, slide=slide)


def test_a_full_context_ends_the_text_and_says_so(engine: Engine) -> None:
    generation = one(engine, [1] * 9, tokenizer=None, max_new_tokens=10)
    # Positions 9, 10 and 11 are fed back; what follows position 11 is the fourth.
    assert len(generation.tokens) == 4
    assert generation.finish_reason == "length"
    assert one(engine, [1] * 9, max_new_tokens=4).notice is None
    notice = one(engine, [1] * 9, max_new_tokens=10).notice
    assert notice is not None
    assert notice.startswith("the context of 12 tokens is full after 4 of 10 new tokens; ")


def test_only_the_rows_that_reached_the_end_of_the_context_say_so() -> None:
    class TwoEnds(ScriptedEngine):
        def after(self, tokens: list[int]) -> np.ndarray:
            logits = np.full(257, -1e9, dtype=np.float32)
            logits[[EOT, ord("x")] if len(tokens) == 1 else [ord("x")]] = 0.0
            return logits

    _, generations = written(TwoEnds(lambda tokens: 0, context=5), [1], num=8)
    assert {(g.finish_reason, g.notice is None) for g in generations} == {("stop", True), ("length", False)}


def test_sliding_equals_windows_that_are_run_whole(engine: Engine) -> None:
    policy = SamplingPolicy(seed=3, temperature=0.9, top_p=0.95, repetition_penalty=1.1)
    _, generations = written(
        engine, [7, 8], policy=policy, num=2, max_new_tokens=40, tokenizer=None, slide=True
    )
    for row, generation in enumerate(generations):
        window, everything, tokens = [7, 8], [7, 8], []
        for step in range(40):
            logits = engine.logits(np.array(window))[-1]
            token = sampling.choose(
                logits, np.array(everything), policy, prompt_tokens=2, seed=3 + row, step=step
            )
            tokens.append(token)
            everything.append(token)
            window = everything[-6:] if len(window) == 12 else [*window, token]
        assert generation.tokens == tokens
        assert generation.finish_reason == "length"


def test_sliding_says_so(engine: Engine) -> None:
    notice = one(engine, [7, 8], max_new_tokens=14, slide=True).notice
    assert notice == "past the context of 12 tokens: when it was full, its last 6 were read again"
    assert one(engine, [7, 8], max_new_tokens=11, slide=True).notice is None


def test_a_context_of_one_token_slides_too() -> None:
    engine = ScriptedEngine(lambda tokens: tokens[-1] + 1, context=1)
    assert one(engine, [ord("a")], max_new_tokens=3, slide=True).text == "bcd"


# --- Numbers ----------------------------------------------------------------------------------------------------------


def test_logprobs_are_the_models_own_whatever_the_policy(engine: Engine) -> None:
    policy = SamplingPolicy(seed=1, temperature=0.5, top_k=3, repetition_penalty=2.0)
    generation = one(engine, [1, 2, 3], policy=policy, max_new_tokens=6)
    whole = np.array([1, 2, 3, *generation.tokens])
    expected = sampling.log_probabilities(engine.logits(whole)[2:-1], whole[3:])
    FLOAT64.assert_close(generation.logprobs, expected)
    assert all(value < 0 for value in generation.logprobs)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_named(bad: float) -> None:
    class Broken(ScriptedEngine):
        def after(self, tokens: list[int]) -> np.ndarray:
            logits = super().after(tokens)
            if len(tokens) == 3:
                logits[17] = bad
            return logits

    with pytest.raises(CheckpointError, match=r"^the logits of new token 3 are not numbers; [^\n]+$"):
        one(Broken(script(1, b"abcd")), [1])


def test_ids_beyond_the_tokenizers_are_never_drawn() -> None:
    """Vocabularies are padded, to 50,304 say; those rows of the embedding have no text."""

    class Padded(ScriptedEngine):
        def after(self, tokens: list[int]) -> np.ndarray:
            logits = super().after(tokens)
            logits[257:] = 100.0
            return logits

    assert one(Padded(script(1, b"abc"), vocab_size=300), [1], max_new_tokens=3).text == "abc"
    assert (
        one(Padded(script(1, b"a"), vocab_size=300), [1], max_new_tokens=1, tokenizer=None).tokens[0] >= 257
    )


@pytest.mark.parametrize("name", ["max_new_tokens", "batch"])
@pytest.mark.parametrize("value", [0, -3, 2.0, True])
def test_counts_that_cannot_be_are_refused(name: str, value: object) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 1, name: value}
    with pytest.raises(ConfigError, match=rf"^{name}=[^\n]+ is not possible; expected [^\n]+$"):
        Task(prompts=[np.array([1])], policy=CERTAINLY, **settings)


def test_the_last_texts_seed_must_be_possible_too() -> None:
    policy = SamplingPolicy(seed=2**63 - 2)
    Task(prompts=[np.array([1])] * 2, policy=policy, max_new_tokens=1)
    with pytest.raises(ConfigError, match=rf"^seed={2**63} is not possible; [^\n]+$"):
        Task(prompts=[np.array([1])] * 3, policy=policy, max_new_tokens=1)


def test_a_bias_of_an_id_that_the_model_does_not_have_is_refused() -> None:
    engine = ScriptedEngine(script(1, b"ab"))
    assert one(engine, [1], max_new_tokens=1, policy=SamplingPolicy(logit_bias={256: 200.0})).tokens == [256]
    with pytest.raises(ConfigError, match=r"^logit_bias has id 257; expected ids of the model, 0 to 256$"):
        one(engine, [1], policy=SamplingPolicy(logit_bias={257: 1.0}))


def test_a_generation_is_json() -> None:
    generation = one(ScriptedEngine(script(1, [*b"hi", EOT])), [1])
    assert json.loads(json.dumps(generation.to_json())) == generation.to_json()
    assert list(generation.to_json()) == [
        "text",
        "tokens",
        "logprobs",
        "finish_reason",
        "seed",
        "prompt_tokens",
        "notice",
    ]


def test_the_loop_needs_no_torch() -> None:
    code = (
        "import sys, gptwo.infer.api, gptwo.infer.generate, gptwo.infer.sampling, gptwo.infer.engine;"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
