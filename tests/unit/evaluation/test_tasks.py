"""Task files: which continuations a line asks for, which figures follow, which lines are refused."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptwo
from command import command
from gptwo.base.errors import ContextLengthError, DataError, DivergedError, TokenizerError
from gptwo.config import GPT2Config
from gptwo.evaluation.result import perplexity
from gptwo.evaluation.scoring import (
    Answer,
    Continuation,
    Row,
    encode_continuation,
    score,
    score_continuations,
)
from gptwo.evaluation.tasks import TASKS
from gptwo.infer.engine import Scores
from gptwo.tokenizer import build_byte
from random_checkpoint import write_random_checkpoint
from tolerance import FLOAT64

EOT_ID = 256
CONFIG = GPT2Config(n_layer=1, n_head=1, n_embd=8, context=40, vocab_size=257)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bytes with random weights, in float64."""
    folder = write_random_checkpoint(tmp_path_factory.mktemp("bytes"), CONFIG, seed=1)
    build_byte().save(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> gptwo.LanguageModel:
    return gptwo.load(folder, device="cpu")


def lines(file: Path, *records: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def by_hand(model: gptwo.LanguageModel, context: str, continuation: str) -> float:
    """log p of the continuation's bytes after the last bytes of the context that fit."""
    ids = [*(context.encode() or [EOT_ID]), *continuation.encode()]
    logits = model.logits(ids[-CONFIG.context - 1 : -1])[-len(continuation.encode()) :]
    wanted = ids[-len(continuation.encode()) :]
    return float(
        sum(row[token] - np.logaddexp.reduce(row) for row, token in zip(logits, wanted, strict=True))
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def test_the_last_word_is_predicted_from_the_rest(model: gptwo.LanguageModel, tmp_path: Path) -> None:
    greedy = model.generate("one", max_new_tokens=4, temperature=0).text
    texts = ["one two", "a much longer text that does not fit at all into forty bytes, ever", "word"]
    file = lines(tmp_path / "a.jsonl", *({"text": text} for text in texts))
    found = gptwo.evaluate(model, file, task="lambada")
    pairs = [("one", " two"), (texts[1].rpartition(" ")[0], " ever"), ("", " word")]
    FLOAT64.assert_close(
        found.metrics["perplexity"], math.exp(-np.mean([by_hand(model, *pair) for pair in pairs]))
    )
    assert found.metrics["acc"] == 0
    assert found.counts == {"examples": 3, "contexts_cut": 1}
    assert not greedy.startswith(" two"), "or the accuracy would not be 0"


def scored_choices(log_probs: list[float], choices: list[str], answer: int) -> dict[str, float]:
    example = TASKS["multiple-choice"].read({"query": "q", "choices": choices, "answer": answer})
    answers = [Answer(log_prob, greedy=False, cut=False) for log_prob in log_probs]
    return TASKS["multiple-choice"].measure([example], [answers])


def test_choices_are_normalised_by_characters_and_by_bytes() -> None:
    # Per character -1, -0.9, -0.75; per byte -1, -0.9, -0.25.
    choices = ["a", "bbbbbbbbbb", "中文"]
    for answer, expected in [(0, (1, 0, 0)), (1, (0, 0, 0)), (2, (0, 1, 1))]:
        metrics = scored_choices([-1.0, -9.0, -1.5], choices, answer)
        assert (metrics["acc"], metrics["acc_norm"], metrics["acc_bytes"]) == expected
    # Per character -0.5, -1.2; per byte -0.5, -0.4.
    metrics = scored_choices([-1.0, -2.4], ["aa", "中文"], 1)
    assert (metrics["acc"], metrics["acc_norm"], metrics["acc_bytes"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("answer", "index"), [(1, 1), ("1", 1), ("b", 1), (0, 0), ("a", 0), ("2", 2), ("02", 2)]
)
def test_an_answer_is_a_number_or_the_text_of_a_choice(answer: object, index: int) -> None:
    for names in (("query", "answer"), ("context", "label")):
        record = {names[0]: "q", "choices": ["a", "b", "c"], names[1]: answer}
        assert TASKS["multiple-choice"].read(record) == ("q", ["a", "b", "c"], index)


def test_a_choice_of_digits_is_meant_by_its_text() -> None:
    assert TASKS["multiple-choice"].read({"query": "q", "choices": ["3", "1"], "answer": "1"}).answer == 1


def test_the_limit_is_the_first_so_many(model: gptwo.LanguageModel, tmp_path: Path) -> None:
    records = [{"query": "q", "choices": ["a", "b"], "answer": 0}] * 3
    assert gptwo.evaluate(
        model, lines(tmp_path / "a.jsonl", *records), task="multiple-choice", limit=2
    ).counts == {
        "examples": 2,
        "contexts_cut": 0,
    }


def test_progress_counts_continuations(model: gptwo.LanguageModel, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    file = lines(tmp_path / "a.jsonl", *[{"query": "q", "choices": ["a", "b", "c"], "answer": 0}] * 2)
    gptwo.evaluate(model, file, task="multiple-choice", progress=lambda *now: seen.append(now))
    assert seen == [(done, 6) for done in range(1, 7)]


# --- continuations ----------------------------------------------------------------------------------------------------


def characters(text: str) -> list[int]:
    return [ord(character) for character in text]


@pytest.mark.parametrize(
    ("context", "continuation", "expected"),
    [
        ("ab", " c", ("ab", " c")),
        ("ab  ", "c", ("ab", "  c")),
        ("ab\n", "c", ("ab", "\nc")),
        ("", "bc", ("\0", "bc")),
        ("  ", "bc", ("\0", "  bc")),
        ("", "\0bc", ("\0", "bc")),
    ],
)
def test_spaces_go_to_the_continuation_and_nothing_is_the_first_token(
    context: str, continuation: str, expected: tuple[str, str]
) -> None:
    encoded = encode_continuation(characters, context, continuation, first=0)
    assert encoded == tuple(map(characters, expected))


def test_the_continuation_is_what_the_whole_has_beyond_the_context() -> None:
    """Merged with the space before it: encoding the two apart would give other tokens."""
    encode = {"a": [1], "a bc": [1, 9], " bc": [7, 8]}.__getitem__
    assert encode_continuation(encode, "a", " bc", first=None) == ([1], [9])


@pytest.mark.parametrize(
    ("ids", "first", "message"),
    [
        ({"a": [1], "ab": [1]}, 0, "'b' has no tokens of its own"),
        ({"a": [], "ab": [1]}, None, "nothing stands before 'b'"),
    ],
)
def test_what_cannot_be_predicted(ids: dict[str, list[int]], first: int | None, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        encode_continuation(ids.__getitem__, "a", "b", first=first)


@pytest.mark.parametrize("batch", [None, 1, 2, 100])
def test_answers_come_in_the_order_of_the_questions(model: gptwo.LanguageModel, batch: int | None) -> None:
    pairs = [("abc", "d"), ("a", "bcdefghi"), ("x" * 60, "yz"), ("abc", "e"), ("q" * 30, "r" * 40)]
    asked = [Continuation(list(context.encode()), list(ids.encode())) for context, ids in pairs]
    answers = score_continuations(model.engine, asked, batch=batch)
    FLOAT64.assert_close([a.log_prob for a in answers], [by_hand(model, *pair) for pair in pairs])
    assert [a.cut for a in answers] == [False, False, True, False, True]


def test_a_continuation_longer_than_the_context_is_refused(model: gptwo.LanguageModel) -> None:
    with pytest.raises(
        ContextLengthError, match="a continuation has 41 tokens; expected at most the model's context of 40"
    ):
        score_continuations(model.engine, [Continuation([1], [2] * 41)])


class Recorder:
    """Passes of an engine as (rows, longest); every log-probability is ``value``."""

    config = CONFIG

    def __init__(self, value: float = -1.0) -> None:
        self.value = value
        self.passes: list[tuple[int, int]] = []

    def score(self, rows: list[np.ndarray], last: list[int]) -> list[Scores]:
        self.passes.append((len(rows), max(map(len, rows))))
        return [Scores(np.full(n, self.value), np.zeros(n, dtype=bool)) for n in last]


def test_a_pass_holds_some_thousand_tokens_or_so_many_rows() -> None:
    rows = [Row(np.zeros(length, dtype=np.int64), 1) for length in (4097, 4097, 4098, 3000, 3000, 9000, 5)]
    for batch, expected in [
        (None, [(2, 4097), (1, 4098), (2, 3000), (1, 9000), (1, 5)]),
        (3, [(3, 4098), (3, 9000), (1, 5)]),
    ]:
        recorder = Recorder()
        assert len(list(score(recorder, rows, batch=batch))) == len(rows)  # type: ignore[arg-type]
        assert recorder.passes == expected


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_log_probabilities_that_are_no_numbers_end_the_evaluation(value: float) -> None:
    with pytest.raises(DivergedError, match="no finite number"):
        list(score(Recorder(value), [Row(np.zeros(3, dtype=np.int64), 2)]))  # type: ignore[arg-type]
    with pytest.raises(DivergedError, match=r"^a mean of 710\.0 nats is beyond any perplexity"):
        perplexity(710.0)


# --- lines that are refused -------------------------------------------------------------------------------------------

GOOD = {"query": "q", "choices": ["a", "b"], "answer": 0}
SWAG = {"activity_label": "x", "ctx_a": "a", "ctx_b": "b", "endings": ["c", "d"], "label": 0}


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


@pytest.mark.parametrize(
    ("task", "record", "message"),
    [
        ("lambada", {"txt": "a b"}, "there is no field 'text'; the fields are 'txt'"),
        ("lambada", {}, "there is no field 'text'; the fields are none"),
        ("lambada", {"text": 3}, "the field 'text' holds int; expected text"),
        ("lambada", {"text": "ends in a space "}, "the text ends in a space"),
        (
            "lambada",
            {"text": f"a {'b' * 50}"},
            f"'{'b' * 40}' has 51 tokens; expected at most the model's context of 40",
        ),
        ("multiple-choice", without(GOOD, "query"), "there is no field 'query' or 'context'"),
        ("multiple-choice", without(GOOD, "choices"), "there is no field 'choices'"),
        ("multiple-choice", without(GOOD, "answer"), "there is no field 'answer' or 'label'"),
        (
            "multiple-choice",
            {**GOOD, "choices": ["a"]},
            "the field 'choices' is not a list of two texts or more",
        ),
        (
            "multiple-choice",
            {**GOOD, "choices": ["a", ""]},
            "the field 'choices' is not a list of two texts or more",
        ),
        (
            "multiple-choice",
            {**GOOD, "choices": "ab"},
            "the field 'choices' is not a list of two texts or more",
        ),
        (
            "multiple-choice",
            {**GOOD, "answer": 2},
            "the answer 2 is none of the 2 choices; expected a number from 0 to 1",
        ),
        ("multiple-choice", {**GOOD, "answer": -1}, "the answer -1 is none of the 2 choices"),
        ("multiple-choice", {**GOOD, "answer": True}, "the answer True is none of the 2 choices"),
        ("multiple-choice", {**GOOD, "answer": "c"}, "the answer 'c' is none of the 2 choices"),
        ("multiple-choice", {**GOOD, "answer": None}, "the answer None is none of the 2 choices"),
        ("hellaswag", without(SWAG, "ctx_b"), "there is no field 'ctx_b'"),
        ("hellaswag", {**SWAG, "label": ""}, "the answer '' is none of the 2 choices"),
        ("hellaswag", {**SWAG, "endings": ["a", "[x]"]}, "an ending has nothing but marks in brackets"),
    ],
)
def test_a_line_that_is_not_the_tasks_is_named(
    folder: Path, tmp_path: Path, task: str, record: dict[str, Any], message: str
) -> None:
    good = {"lambada": {"text": "a b"}, "multiple-choice": GOOD, "hellaswag": SWAG}[task]
    file = lines(tmp_path / "a.jsonl", good, record)
    line = command("eval", folder, "--data", file, "--task", task, "--device", "cpu").error_line()
    assert re.match(rf"(DataError|ContextLengthError): {file}:2: {re.escape(message)}", line)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no examples; expected one JSON object a line"),
        ("\n\n", "has no examples; expected one JSON object a line"),
        ("{", ":1 is not JSON"),
        ("[1]", ":1 holds list; expected an object"),
    ],
)
def test_a_file_that_is_no_task_is_one_line(folder: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    line = command("eval", folder, "--data", tmp_path / "a.jsonl", "--task", "lambada").error_line()
    assert line.startswith("DataError: ")
    assert message in line


def test_ids_that_the_model_does_not_have_are_refused_by_their_line(tmp_path: Path) -> None:
    small = write_random_checkpoint(tmp_path / "small", replace(CONFIG, vocab_size=200))
    build_byte().save(small)
    file = lines(tmp_path / "a.jsonl", {"text": "a b"}, {"text": "a 中"})
    with pytest.raises(TokenizerError, match=rf"^{file}:2: token 228 at position 2 is not in the model's"):
        gptwo.evaluate(gptwo.load(small, device="cpu"), file, task="lambada")


def test_a_task_file_that_is_not_there(model: gptwo.LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jsonl cannot be read"):
        gptwo.evaluate(model, tmp_path / "no.jsonl", task="hellaswag")
