"""Whatever bytes a model writes and whatever ends them, the streamed text is the whole text and has nothing more."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gptwo.infer.generate import write
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.task import Generation, Task
from gptwo.tokenizer import build_byte
from scripted_engine import ScriptedEngine, script

TOKENIZER = build_byte()
# Few letters and characters of one to four bytes, so that stop strings and cut characters are common.
TEXT = st.text("abé€😀", max_size=12)
STOPS = st.lists(st.text("abé€😀\ufffd", min_size=1, max_size=3), max_size=3)
OUTPUT = st.one_of(TEXT.map(str.encode), st.binary(max_size=12), TEXT.map(lambda text: text.encode()[:-1]))


def streamed(output: bytes, stops: list[str], max_new_tokens: int) -> tuple[list[str], Generation]:
    engine = ScriptedEngine(script(1, [*output, TOKENIZER.eot_id]))
    task = Task(
        prompts=[np.array([0])], policy=SamplingPolicy(seed=0), max_new_tokens=max_new_tokens, stop=stops
    )
    written, pieces = write(engine, TOKENIZER, task), []
    while True:
        try:
            pieces.append(next(written)[1])
        except StopIteration as end:
            return pieces, end.value[0]


def cut_at_the_first_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(output=OUTPUT, stops=STOPS, max_new_tokens=st.integers(1, 14))
def test_streamed_text_is_the_whole_text_cut_at_the_stop(
    output: bytes, stops: list[str], max_new_tokens: int
) -> None:
    pieces, generation = streamed(output, stops, max_new_tokens)
    assert "".join(pieces) == generation.text
    decoded = output[:max_new_tokens].decode("utf-8", errors="replace")
    text, stopped = cut_at_the_first_stop(decoded, stops)
    assert generation.text == text
    ended = stopped or len(output) < max_new_tokens
    assert generation.finish_reason == ("stop" if ended else "length")
    assert len(generation.logprobs) == len(generation.tokens) <= max_new_tokens


@given(text=TEXT, stops=STOPS)
def test_no_piece_has_half_a_character_or_part_of_a_stop_string(text: str, stops: list[str]) -> None:
    pieces, generation = streamed(text.encode(), stops, 100)
    assert "\ufffd" not in generation.text
    for end in range(len(pieces)):
        assert generation.text.startswith("".join(pieces[:end]))
    assert not any(stop in generation.text for stop in stops)
