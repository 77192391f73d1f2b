"""Whatever a model would rather say: a text that has ended is what the schema asks for, in every kind of tokenizer."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gptwo.infer.constraint import Constraint
from gptwo.serve.grammar import constraint
from gptwo.tokenizer import Tokenizer, build_char
from tokenizer_cases import KINDS, TEXT, tokenizer

LETTERS = 'ab"\\\né€😀'
# A padded embedding has more rows than the tokenizer has tokens.
PADDING = 7


@functools.cache
def tokenizer_for_json(kind: str) -> Tokenizer:
    return build_char([TEXT + '{}[]"-0123456789' + LETTERS]) if kind == "char" else tokenizer(kind)


@functools.cache
def towards_the_end(kind: str) -> Any:
    """What is added to the logits of tokens that close something, so that a random text has an end."""
    tokens = tokenizer_for_json(kind)
    bonus = np.zeros(tokens.vocab_size + PADDING)
    for id_ in range(tokens.vocab_size):
        if id_ == tokens.eot_id or tokens.token_bytes(id_)[:1] in (b'"', b"}", b"]"):
            bonus[id_] = 4.0
    return bonus


@functools.cache
def ids_of_bytes(kind: str) -> dict[bytes, list[int]]:
    tokens, found = tokenizer_for_json(kind), {}
    for id_ in range(tokens.vocab_size):
        if not tokens.is_special(id_):
            found.setdefault(tokens.token_bytes(id_), []).append(id_)
    return found


def begin(schema: dict[str, Any], kind: str) -> Constraint:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    tokens = tokenizer_for_json(kind)
    make = constraint(asked, tokens, tokens.vocab_size + PADDING)
    assert make is not None
    return make()


def written(schema: dict[str, Any], kind: str, seed: int) -> str:
    """A text by random logits, to its end."""
    tokens, text, ids = tokenizer_for_json(kind), begin(schema, kind), []
    rng = np.random.default_rng(seed)
    while not text.finished:
        assert len(ids) < 1_000
        logits = rng.normal(size=tokens.vocab_size + PADDING) * 2 + towards_the_end(kind)
        ids.append(int(np.where(text.allowed(), logits, -np.inf).argmax()))
        text.accept(ids[-1])
    assert tokens.eot_id not in ids[:-1]
    return tokens.decode([id_ for id_ in ids if id_ != tokens.eot_id])


scalars = st.sampled_from(
    [
        {"type": "integer", "minimum": -3, "maximum": 12},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 2.5},
        {"type": "integer", "multipleOf": 3},
        {"type": ["boolean", "null"]},
        {"type": "string", "maxLength": 4},
        {"type": "string", "pattern": "^[a-c]{1,3}(x|é)?$"},
        {"type": "string", "format": "date"},
        {"enum": ["ab", "a", 1, None, {"a": []}]},
        {"const": 'é\n"a" \\'},
        {"anyOf": [{"type": "string", "minLength": 2}, {"type": "null"}]},
    ]
)
names = st.sampled_from(["a", "b", "é b", 'c"\\'])


def grown(schemas: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    arrays = st.builds(
        lambda items, least: {"type": "array", "items": items, "minItems": least, "maxItems": 2},
        schemas,
        st.integers(0, 2),
    )
    objects = st.builds(
        lambda properties, required, others: {
            "type": "object",
            "properties": properties,
            "required": [name for name in required if name in properties],
            "additionalProperties": others,
        },
        st.dictionaries(names, schemas, max_size=3),
        st.lists(names, max_size=2, unique=True),
        st.sampled_from([False, {"type": "integer", "minimum": 0, "maximum": 9}]),
    )
    return arrays | objects


schemas = st.recursive(scalars, grown, max_leaves=4)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(schema=schemas, seed=st.integers(0, 2**32))
def test_a_text_that_ends_is_what_was_asked_for(kind: str, schema: dict[str, Any], seed: int) -> None:
    Draft202012Validator(schema).validate(json.loads(written(schema, kind, seed)))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(
    choices=st.lists(
        st.text(LETTERS, max_size=4) | st.integers(-20, 200) | st.sampled_from([True, False, None]),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 2**32),
)
def test_a_token_is_allowed_where_its_bytes_can_go_on(kind: str, choices: list[Any], seed: int) -> None:
    """Against all the ways in which a choice can go on."""
    tokens = tokenizer_for_json(kind)
    words = {json.dumps(choice, ensure_ascii=False).encode() for choice in choices}
    text, bytes_, rng = begin({"enum": choices}, kind), b"", np.random.default_rng(seed)
    while True:
        ends = bytes_ in words
        rests = [word[len(bytes_) :] for word in words if word.startswith(bytes_) and word != bytes_]
        assert text.finished == (ends and not rests)
        if text.finished:
            return
        beginnings = {rest[:end] for rest in rests for end in range(1, len(rest) + 1)}
        expected = {id_ for beginning in beginnings for id_ in ids_of_bytes(kind).get(beginning, ())}
        allowed = np.flatnonzero(text.allowed()).tolist()
        assert set(allowed) == expected | ({tokens.eot_id} if ends else set())
        token = int(rng.choice(allowed))
        if token == tokens.eot_id:
            return
        text.accept(token)
        bytes_ += tokens.token_bytes(token)
