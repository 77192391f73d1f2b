"""Task files, one JSON object a line, and the protocols that score them: those of lm-evaluation-harness, zero-shot."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptwo.base.errors import DataError, GptwoError
from gptwo.data.compressed import open_binary
from gptwo.data.tables import jsonl_records
from gptwo.evaluation.result import EvaluationResult, Progress, perplexity
from gptwo.evaluation.scoring import Answer, Continuation, encode_continuation, score_continuations
from gptwo.infer.api import LanguageModel
from gptwo.infer.prompt import require_room, require_tokens


class Example(NamedTuple):
    """A context and what may follow it, of which number ``answer`` is right. One choice: it is to be predicted."""

    context: str
    choices: list[str]
    answer: int


Metrics = dict[str, float]


@dataclass(frozen=True)
class Task:
    """How a line becomes an example, and answers become figures. The rule is said to whoever reads the figures."""

    protocol: str
    rule: str
    read: Callable[[dict[str, Any]], Example]
    measure: Callable[[Sequence[Example], Sequence[Sequence[Answer]]], Metrics]


# --- From a line to an example ----------------------------------------------------------------------------------------


def _field(record: dict[str, Any], *names: str) -> Any:
    """The value of the first of ``names`` that the record has."""
    for name in names:
        if name in record:
            return record[name]
    fields = ", ".join(map(repr, list(record)[:8])) or "none"
    raise DataError(f"there is no field {' or '.join(map(repr, names))}; the fields are {fields}")


def _text(record: dict[str, Any], *names: str) -> str:
    value = _field(record, *names)
    if not isinstance(value, str):
        raise DataError(
            f"the field {' or '.join(map(repr, names))} holds {type(value).__name__}; expected text"
        )
    return value


def _choices(record: dict[str, Any], name: str) -> list[str]:
    value = _field(record, name)
    if not (isinstance(value, list) and len(value) > 1 and all(isinstance(c, str) and c for c in value)):
        raise DataError(f"the field {name!r} is not a list of two texts or more, none of them empty")
    return value


def _answer(record: dict[str, Any], choices: list[str], *names: str) -> int:
    """The number of the right choice, from 0: as it stands, in digits, or as the text of the choice."""
    value = _field(record, *names)
    if isinstance(value, str) and value in choices:
        return choices.index(value)
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(choices):
        raise DataError(
            f"the answer {value!r} is none of the {len(choices)} choices; expected a number from 0 to "
            f"{len(choices) - 1}, or the text of one"
        )
    return value


def _lambada(record: dict[str, Any]) -> Example:
    context, _, word = _text(record, "text").rpartition(" ")
    if not word:
        raise DataError("the text ends in a space; expected a last word to predict")
    return Example(context, [word], 0)


def _hellaswag(record: dict[str, Any]) -> Example:
    context = f"{_text(record, 'ctx_a')} {_text(record, 'ctx_b').capitalize()}"
    endings = _choices(record, "endings")
    answer = _answer(record, endings, "label")
    choices = [_without_wikihow_marks(ending) for ending in endings]
    if not all(choices):
        raise DataError("an ending has nothing but marks in brackets; expected text")
    return Example(_without_wikihow_marks(f"{_text(record, 'activity_label')}: {context}"), choices, answer)


def _without_wikihow_marks(text: str) -> str:
    """\" [title]" becomes ". ", other "[...]" nothing: marks of the WikiHow part of HellaSwag."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _multiple_choice(record: dict[str, Any]) -> Example:
    choices = _choices(record, "choices")
    return Example(_text(record, "query", "context"), choices, _answer(record, choices, "answer", "label"))


# --- From answers to figures ------------------------------------------------------------------------------------------


def _last_word(examples: Sequence[Example], answers: Sequence[Sequence[Answer]]) -> Metrics:
    words = [answer for (answer,) in answers]
    return {
        "acc": float(np.mean([word.greedy for word in words])),
        "perplexity": perplexity(-float(np.mean([word.log_prob for word in words]))),
    }


def _choice(examples: Sequence[Example], answers: Sequence[Sequence[Answer]]) -> Metrics:
    def accuracy(length: Callable[[str], int]) -> float:
        right = [
            np.argmax([a.log_prob / length(choice) for a, choice in zip(given, example.choices, strict=True)])
            == example.answer
            for example, given in zip(examples, answers, strict=True)
        ]
        return float(np.mean(right))

    return {
        "acc": accuracy(lambda choice: 1),
        "acc_norm": accuracy(len),
        "acc_bytes": accuracy(lambda choice: len(choice.encode("utf-8"))),
    }


_OF_CHOICES = (
    "the choice with the largest log p, after the context and a space; acc_norm divides log p by the choice's "
    "characters, acc_bytes by its UTF-8 bytes"
)
TASKS: dict[str, Task] = {
    "lambada": Task(
        "lambada_openai",
        "the text's last word after the rest; acc: every token of it is the most probable; perplexity: of the word",
        _lambada,
        _last_word,
    ),
    "hellaswag": Task("hellaswag", _OF_CHOICES, _hellaswag, _choice),
    "multiple-choice": Task("multiple_choice", _OF_CHOICES, _multiple_choice, _choice),
}


# --- The run ----------------------------------------------------------------------------------------------------------


def _examples(file: Path, task: Task) -> Iterator[tuple[str, Example]]:
    with open_binary(file) as stream:
        for where, record in jsonl_records(stream, str(file)):
            try:
                yield where, task.read(record)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None


def evaluate_task(
    model: LanguageModel, file: Path, *, task: str, limit: int | None, batch: int | None, progress: Progress
) -> EvaluationResult:
    """Score every choice of every example in ``file`` after its context, which is cut at the left where it is too long.

    Raises ``DataError`` naming the line that is not as the task needs it, or when there is none.
    """
    protocol = TASKS[task]
    tokenizer = model.tokenizer
    examples: list[Example] = []
    continuations: list[Continuation] = []
    for where, example in islice(_examples(file, protocol), limit):
        examples.append(example)
        for choice in example.choices:
            try:
                encoded = encode_continuation(
                    tokenizer.encode, example.context, f" {choice}", first=tokenizer.eot_id
                )
                require_tokens([*encoded.context, *encoded.ids], model.config.vocab_size)
                require_room(len(encoded.ids), model.config.context, repr(choice[:40]))
            except GptwoError as error:
                raise type(error)(f"{where}: {error}") from None
            continuations.append(encoded)
    if not examples:
        raise DataError(f"{file} has no examples; expected one JSON object a line")
    found = iter(
        score_continuations(
            model.engine,
            continuations,
            batch=batch,
            on_scored=lambda done: progress(done, len(continuations)),
        )
    )
    answers = [list(islice(found, len(example.choices))) for example in examples]
    return EvaluationResult(
        task=task,
        protocol=protocol.protocol,
        rule=protocol.rule,
        metrics=protocol.measure(examples, answers),
        counts={
            "examples": len(examples),
            "contexts_cut": sum(any(answer.cut for answer in given) for given in answers),
        },
    )
