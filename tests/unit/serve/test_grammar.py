"""response_format as a client meets it: what is refused and in which words, what ends a text, what is never allowed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from gptwo.base.errors import ConfigError, MissingExtraError, TokenizerError
from gptwo.infer.constraint import Constraint
from gptwo.infer.generate import result_of, write
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.task import Task
from gptwo.serve import grammar
from gptwo.serve.grammar import constraint
from gptwo.tokenizer import Tokenizer, build_byte, build_char
from scripted_engine import ScriptedEngine
from tokenizer_cases import tokenizer

BYTES = build_byte()


def asked(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def begun(
    schema: object, written: str = "", tokenizer: Tokenizer = BYTES, V: int | None = None
) -> Constraint:
    """A text in the schema, of which ``written`` is there."""
    make = constraint(asked(schema), tokenizer, V or tokenizer.vocab_size)
    assert make is not None
    text = make()
    for token in tokenizer.encode(written):
        assert text.allowed()[token]
        text.accept(token)
    return text


def letters(text: Constraint) -> str:
    """The printable bytes that may come next, and $ for the end."""
    allowed = text.allowed()
    assert not allowed[:9].any()
    assert not allowed[127:256].any()
    printable = "".join(map(chr, np.flatnonzero(allowed[:127])))
    return printable + ("$" if allowed[256] else "")


def test_plain_text_has_no_constraint() -> None:
    assert constraint(None, BYTES, 257) is None
    assert constraint({"type": "text"}, BYTES, 257) is None


def test_a_vocabulary_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    constraint({"type": "json_object"}, BYTES, 257)
    monkeypatch.setattr(grammar, "_Tokens", None)
    assert constraint({"type": "json_object"}, BYTES, 257) is not None


def test_json_mode_is_an_object() -> None:
    make = constraint({"type": "json_object"}, BYTES, 257)
    assert make is not None
    assert letters(make()) == "{"


def test_a_text_ends_where_nothing_may_follow() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    text = begun(schema, '{"a": true')
    assert not text.finished
    assert letters(text) == "\t\n\r }"
    text.accept(ord("}"))
    assert text.finished


def test_a_text_may_end_where_more_may_follow() -> None:
    text = begun({"type": "integer"}, "-12")
    assert not text.finished
    assert letters(text) == "0123456789$"
    text.accept(BYTES.eot_id or 0)
    assert text.finished


def test_a_tokenizer_without_an_end_stops_where_nothing_may_follow() -> None:
    endless = build_byte()
    endless.eot_id = None
    text = begun({"enum": ["a", "ab"]}, '"a', endless)
    assert letters(text) == '"b'
    text.accept(ord('"'))
    assert text.finished
    # A number can always go on, so only max_tokens ends it.
    assert letters(begun({"type": "integer"}, "1", endless)) == "0123456789"


def test_rows_beyond_the_vocabulary_are_never_allowed() -> None:
    text = begun({"type": "string"}, '"', V=320)
    assert text.allowed().shape == (320,)
    assert not text.allowed()[257:].any()


def test_a_special_token_is_no_text() -> None:
    special = tokenizer("other")
    assert special.eot_id is not None
    text = begun({"type": "string"}, '"a', special)
    assert not text.allowed()[special.eot_id]


def test_each_text_has_its_own_state() -> None:
    make = constraint(asked({"enum": ["a", "b"]}), BYTES, 257)
    assert make is not None
    one, other = make(), make()
    one.accept(ord('"'))
    assert letters(one) == "ab"
    assert letters(other) == '"'


def test_white_space_has_an_end() -> None:
    text = begun({"type": "array"}, "[" + " " * 31)
    assert " " in letters(text)
    text.accept(ord(" "))
    assert " " not in letters(text)


def test_a_key_has_one_spelling() -> None:
    text = begun({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"\\')
    assert letters(text) == '"\\bfnrt'


@pytest.mark.parametrize(
    "policy",
    [
        {"temperature": 0.0},
        {"temperature": 1.7},
        {"top_k": 3, "repetition_penalty": 0.4},
        {"top_p": 0.5, "min_p": 0.1, "presence_penalty": 2.0, "frequency_penalty": -1.0},
        {"logit_bias": {ord("{"): -100.0, BYTES.eot_id: 100.0}},
    ],
)
def test_the_loop_that_writes_keeps_to_it(policy: dict[str, Any]) -> None:
    """Though the model wants to write x and nothing else, and others write beside."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 3}, "b": {"enum": [1, "x", None]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    task = Task(
        prompts=[np.array([0])] * 3,
        policy=SamplingPolicy(seed=3, **policy),
        max_new_tokens=400,
        constraint=constraint(asked(schema), BYTES, 257),
    )
    texts = result_of(write(ScriptedEngine(lambda _: ord("x")), BYTES, task))
    for text in texts:
        assert text.finish_reason == "stop"
        answer = json.loads(text.text)
        assert answer["b"] in (1, "x", None)
        assert len(answer["a"]) <= 3
        assert BYTES.eot_id not in text.tokens
        # The log-probabilities stay those of the model, which gives the brace next to none.
        assert text.logprobs[0] < -50


@pytest.mark.parametrize(
    ("response_format", "line"),
    [
        ("json", "^response_format is str; expected {'type': 'text'}, {'type': 'json_object'} or"),
        ({}, "^response_format has the type None; expected"),
        ({"type": "xml"}, "^response_format has the type 'xml'; expected"),
        ({"type": "json_schema"}, "^response_format has no object json_schema.schema; expected"),
        ({"type": "json_schema", "json_schema": {"schema": "x"}}, "has no object json_schema.schema"),
        (asked({"type": "number", "not": {"const": 1}}), r"^the schema cannot be followed: .*not"),
        (asked({"type": "strnig"}), r"^the schema cannot be followed: .*strnig"),
        (asked({"type": "string", "pattern": "(?=a)b"}), "^the schema cannot be followed: "),
        (asked({"type": "string", "format": "color"}), "^the schema cannot be followed: .*color"),
        (asked({"$ref": "https://example.org/schema"}), "^the schema cannot be followed: "),
        (asked({"type": "integer", "minimum": 3, "maximum": 2}), "^the schema cannot be followed: "),
        (asked({"enum": [float("nan")]}), "^the schema is no JSON: "),
        (
            asked({"type": "array", "items": {"type": "null"}, "minItems": 10**9}),
            "minItems=1000000000; expected at most",
        ),
        (asked({"type": "array", "maxItems": 1e300}), "maxItems=1e[+]300; expected at most 1,000"),
        (asked({"type": "string", "minLength": 10**6}), "minLength=1000000; expected at most 10,000"),
        (
            asked({"allOf": [{"pattern": "a" * 501}] * 2}),
            "patterns of the schema have 1,002 characters together; exp",
        ),
        (
            asked({"patternProperties": {"a" * 1_001: {}}}),
            "patterns of the schema have 1,001 characters together",
        ),
        (
            asked({"allOf": [{"multipleOf": 0.07}, {"multipleOf": 1.3}, {"multipleOf": 11}]}),
            "more than 1,000 units of",
        ),
        (asked({"$ref": "#"}), "^no text can be what the schema says; expected one that has an end$"),
        (asked({"enum": list(range(2_000))}), "more than 2,000 values; make it smaller"),
        (asked({"description": "a" * 70_000}), "has 70,.* characters; expected at most 65,536"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(response_format: object, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        constraint(response_format, BYTES, 257)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_deep_schema_is_refused() -> None:
    deep: dict[str, Any] = {"type": "null"}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(ConfigError, match="nested more than 64 levels deep"):
        constraint(asked(deep), BYTES, 257)


HOSTILE = {
    "a product of unions": {"allOf": [{"anyOf": [{"minimum": i}, {"maximum": i}]} for i in range(60)]},
    "unions of everything": {"anyOf": [{"type": "object", "properties": {f"p{i}": {}}} for i in range(300)]},
    "repeats of repeats": {"type": "string", "pattern": "^((((a{1,99}){1,99}){1,99}){1,99}){1,99}$"},
    "a far repeat": {"type": "string", "pattern": "^[ab]*a[ab]{400}$"},
    "a large divisor": {"type": "number", "multipleOf": 9.97, "minimum": -123456.789, "maximum": 987654.321},
    "brackets": {"type": "string", "pattern": "(" * 240 + "a" + ")" * 240},
    "many properties": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(990)}},
    "arrays of arrays": {
        "type": "array",
        "minItems": 1_000,
        "items": {"type": "array", "minItems": 1_000, "items": {"type": "array", "maxItems": 1_000}},
    },
    "a chain of references": {
        "$ref": "#/$defs/d0",
        "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(990)} | {"d990": {"type": "null"}},
    },
    "itself": {"$ref": "#"},
    "itself in itself": {"allOf": [{"$ref": "#"}, {"type": "object"}]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_refused_or_followed(name: str) -> None:
    """In a process of its own, which must neither run out of stack nor of memory."""
    code = (
        "import json, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "from gptwo.base.errors import ConfigError\n"
        "from gptwo.serve.grammar import constraint\n"
        "from gptwo.tokenizer import build_byte\n"
        "from threading import Thread\n"
        "def follow():\n"
        "    try:\n"
        "        text = constraint(json.load(sys.stdin), build_byte(), 257)()\n"
        "        for _ in range(40):\n"
        "            if text.finished: break\n"
        "            allowed = text.allowed().nonzero()[0]\n"
        "            text.accept(int(allowed[len(allowed) // 2]))\n"
        "    except ConfigError as error:\n"
        "        assert '\\n' not in str(error)\n"
        "    print('done')\n"
        "thread = Thread(target=follow); thread.start(); thread.join()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(asked(HOSTILE[name])),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-500:]


def test_a_vocabulary_without_brackets_is_refused() -> None:
    with pytest.raises(TokenizerError, match=r"^this model cannot write JSON: character '{'"):
        constraint({"type": "json_object"}, build_char(["no brackets here"]), 20)


def test_a_character_that_the_vocabulary_lacks_ends_the_text_with_an_error() -> None:
    letters = build_char(['{}[]":,-.0123456789truefalsn'])
    text = begun({"enum": ["tré"]}, '"tr', letters)
    with pytest.raises(TokenizerError, match="with a character that this model's vocabulary lacks"):
        text.allowed()


def test_without_llguidance_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar._vocabulary.cache_clear()
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gptwo\[serve\]'"):
        constraint({"type": "json_object"}, BYTES, 257)
