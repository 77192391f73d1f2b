"""Examples to fine-tune on: what is given, and the answer that is learned. JSON lines, or plain text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gptwo.base.errors import DataError, TokenizerError
from gptwo.data.compressed import open_binary
from gptwo.data.sources import Sources, is_json_lines
from gptwo.data.split import SplitRule, decide_split, text_hash
from gptwo.data.tables import jsonl_records
from gptwo.tokenizer import Tokenizer
from gptwo.tokenizer.chat import Part, chat_parts, require_plain_chat

Kind = Literal["prompt and completion", "messages", "text"]

_EXPECTED = 'expected "prompt" and "completion", or "messages", or "text"'
_BATCH = 1024


@dataclass(frozen=True)
class Example:
    """Token ids, and for each whether it is part of an answer: those alone are learned, and the loss is theirs."""

    ids: npt.NDArray[np.int32]
    answer: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Examples:
    """The examples of some files, split by a hash of each; ``kind`` is what they all are."""

    kind: Kind
    train: list[Example]
    val: list[Example]


@dataclass(frozen=True)
class _Record:
    """An example before it is encoded."""

    where: str
    kind: Kind
    parts: list[Part]

    @property
    def text(self) -> str:
        return "\0".join(text for text, _ in self.parts if text is not None)


def read_examples(paths: Sequence[str], tokenizer: Tokenizer, *, val_fraction: float) -> Examples:
    """Every example of ``paths``, encoded; the share ``val_fraction`` of them, chosen by a hash of each, validates.

    JSON lines (.jsonl, .ndjson, also .gz and .zst), one object each:

        {"prompt": text, "completion": text}            the completion and <|endoftext|> are the answer
        {"messages": [{"role": ..., "content": ...}]}   what the assistant says, each with its <|endoftext|>
        {"text": text}                                  all of it

    Other keys are ignored. Any other file is text as `Sources` reads it, a document an example; a single document is
    split by position. A folder stands for its files. An empty prompt stands for <|endoftext|>, as for ``gptwo
    generate``. Prompt and completion are encoded apart, as a prompt is when the model answers it. Raises ``DataError``
    naming file and line for a line that is something else than the lines before it, or no example; and
    ``TokenizerError`` for text that cannot be encoded.
    """
    if tokenizer.eot_id is None:
        raise TokenizerError("the tokenizer has no <|endoftext|> to end an answer with; use one that has")
    records = list(_one_kind(_records(paths)))
    if not records:
        raise DataError(f"there is no example in {', '.join(paths)}; {_EXPECTED} in each line, or text")
    kind = records[0].kind
    if kind == "messages":
        require_plain_chat(tokenizer)
    rule = _rule(records, val_fraction)
    if rule.by == "position":
        (record,) = records
        text = record.parts[1][0] or ""
        halves = {"train": text[: rule.boundary], "val": text[rule.boundary :]}
        examples = {split: [_Record(record.where, kind, _all_of(half))] for split, half in halves.items()}
    else:
        examples = {"train": [], "val": []}
        for number, record in enumerate(records):
            examples[rule.of_document(number, text_hash(record.text))].append(record)
    train, val = (_encoded(examples[split], tokenizer) for split in ("train", "val"))
    return Examples(kind, train, val)


def _rule(records: Sequence[_Record], val_fraction: float) -> SplitRule:
    if len(records) == 1 and records[0].kind != "text":
        raise DataError(
            f"{records[0].where} is the only example; expected two at least, one to learn from and one to validate on"
        )
    hashes = [(text_hash(record.text), number) for number, record in enumerate(records)]
    characters = len(records[0].text) if len(records) == 1 else 0
    return decide_split(
        documents=len(records),
        characters=characters,
        val_fraction=val_fraction,
        lowest=min(hashes),
        highest=max(hashes),
    )


def _encoded(records: Iterable[_Record], tokenizer: Tokenizer) -> list[Example]:
    end = np.array([tokenizer.eot_id], dtype=np.int64)
    examples = []
    remaining = iter(records)
    while batch := list(itertools.islice(remaining, _BATCH)):
        texts = [text for record in batch for text, _ in record.parts if text is not None]
        try:
            encoded = iter(tokenizer.encode_arrays(texts))
        except TokenizerError:
            for record in batch:  # which of them?
                _require_encodable(record, tokenizer)
            raise
        for record in batch:
            ids = [end if text is None else next(encoded) for text, _ in record.parts]
            answers = [
                np.full(len(part), answer) for part, (_, answer) in zip(ids, record.parts, strict=True)
            ]
            examples.append(Example(np.concatenate(ids).astype(np.int32), np.concatenate(answers)))
    return examples


def _require_encodable(record: _Record, tokenizer: Tokenizer) -> None:
    try:
        for text, _ in record.parts:
            tokenizer.encode(text or "")
    except TokenizerError as error:
        raise TokenizerError(f"{record.where}: {error}") from error


def _one_kind(records: Iterator[_Record]) -> Iterator[_Record]:
    """All but empty texts, of which nothing is to be learned."""
    first: _Record | None = None
    for record in records:
        if record.kind == "text" and not record.text:
            continue
        first = first or record
        if record.kind != first.kind:
            raise DataError(
                f"{record.where} has {record.kind}; expected {first.kind} as {first.where} has: "
                "fine-tune on one kind of example at a time"
            )
        yield record


def _records(paths: Sequence[str]) -> Iterator[_Record]:
    sources = Sources(paths)
    for file in itertools.chain.from_iterable(map(sources.files, paths)):
        if is_json_lines(file):
            with open_binary(file) as stream:
                for where, value in jsonl_records(stream, str(file), expected=f"an object: {_EXPECTED}"):
                    yield _record(value, where)
        else:
            for document in sources.documents(file):
                yield _Record(document.name, "text", _all_of("".join(document.blocks)))


def _all_of(text: str) -> list[Part]:
    return [(None, False), (text, True), (None, True)]


def _record(value: dict[str, Any], where: str) -> _Record:
    found = [kind for kind in ("completion", "messages", "text") if kind in value]
    if len(found) != 1 or (found == ["completion"] and "prompt" not in value):
        fields = ", ".join(map(repr, list(value)[:8])) or "none"
        raise DataError(f"{where} has the fields {fields}; {_EXPECTED}, one of the three")
    if found == ["completion"]:
        prompt, completion = _text(value, "prompt", where), _text(value, "completion", where)
        given: Part = (prompt or None, False)
        return _Record(where, "prompt and completion", [given, (completion, True), (None, True)])
    if found == ["text"]:
        return _Record(where, "text", _all_of(_text(value, "text", where)))
    try:
        parts = chat_parts(value["messages"])
    except TokenizerError as error:
        raise DataError(f"{where}: {error}") from error
    if not any(answer for _, answer in parts):
        raise DataError(
            f"{where} has no message of the assistant; expected one at least: they are what is learned"
        )
    return _Record(where, "messages", parts)


def _text(value: dict[str, Any], field: str, where: str) -> str:
    text = value[field]
    if not isinstance(text, str):
        raise DataError(f"{where}: field {field!r} is {type(text).__name__}; expected text")
    return text
