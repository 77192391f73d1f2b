"""Texts that keep to a form: OpenAI's ``response_format``, by grammars of llguidance over the tokenizer's bytes.

A token is allowed where the text with its bytes can still become what was asked for. JSON is written with at most
``_WHITESPACE`` between its parts, because a model that has nothing to say may else write spaces for ever; and each
character of a string has one spelling, so that no key can come twice under two of them.
"""

from __future__ import annotations

import functools
import json
import math
import string
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gptwo.base.errors import ConfigError, MissingExtraError, TokenizerError
from gptwo.infer.constraint import Constraint
from gptwo.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Bool
    from llguidance import LLMatcher, LLTokenizer

_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"
_OPTIONS = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": True,
    "whitespace_pattern": _WHITESPACE,
    "coerce_one_of": False,
    "lenient": False,
    "json_allowed_escapes": 'nrbtf\\"',
}
# A schema is a program of a stranger's. These keep a compilation under about a second of one core, whatever it is, and
# a step of a text under some milliseconds: docs/decisions/0019-grammars.md has the measurements.
MOST_CHARACTERS = 1 << 16
MOST_VALUES = 2_000
MOST_LEVELS = 64
# Of minItems and its like; of minLength and maxLength; of all patterns together; of what all multipleOf divide.
MOST_REPEATS = 1_000
LONGEST_STRING = 10_000
LONGEST_PATTERNS = 1_000
LARGEST_MULTIPLE = 1_000
_LARGEST = {
    **dict.fromkeys(("minItems", "maxItems", "minProperties", "maxProperties"), MOST_REPEATS),
    **dict.fromkeys(("minLength", "maxLength"), LONGEST_STRING),
}
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_items_in_row": 10_000,
    "max_lexer_states": 10_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
_JSON_CHARACTERS = '{}[]":,-.' + string.digits + "truefalsn"
_HELP = "expected {'type': 'text'}, {'type': 'json_object'} or {'type': 'json_schema', 'json_schema': {'schema': …}}"


def constraint(
    response_format: object, tokenizer: Tokenizer, vocab_size: int
) -> Callable[[], Constraint] | None:
    """What makes the constraint of each text, for a ``response_format`` of OpenAI's; None for plain text.

    ``vocab_size`` is V of the model; rows beyond the tokenizer's are never allowed. A schema means what JSON Schema
    (draft 2020-12) says, with properties in the order in which it names them; one that is not fully understood is
    refused. ``ConfigError``: no response_format, or a schema that cannot be compiled or is too large;
    ``TokenizerError``: a tokenizer that cannot write JSON; ``MissingExtraError`` without llguidance.

    A compilation leaves Python's lock to other threads. Before a tokenizer's first one its vocabulary is read, half a
    second for GPT-2's in which they stand still.
    """
    schema = _schema(response_format)
    if schema is None:
        return None
    matcher = _compiled(_vocabulary(tokenizer), schema)
    return lambda: _Grammar(matcher.deep_copy(), tokenizer.vocab_size, vocab_size)


class _Grammar:
    """A ``Constraint`` by one matcher of llguidance."""

    def __init__(self, matcher: LLMatcher, tokens: int, vocab_size: int) -> None:
        self._matcher = matcher
        self._tokens = min(tokens, vocab_size)
        self._vocab_size = vocab_size

    @property
    def finished(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self) -> Bool[np.ndarray, " V"]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._require_sound()
        allowed = np.zeros(self._vocab_size, dtype=np.bool_)
        allowed[: self._tokens] = np.unpackbits(bits, count=self._tokens, bitorder="little")
        if not allowed.any():
            raise _dead_end()
        return allowed

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._require_sound()

    def _require_sound(self) -> None:
        # llguidance raises nothing: a matcher that has failed allows the end of the text, and stays so.
        if not self._matcher.is_error():
            return
        if "NoExtension" in self._matcher.get_error():
            raise _dead_end()
        raise ConfigError(
            f"the schema asks too much of a step ({_line(self._matcher.get_error())}); make its patterns simpler"
        )


def _dead_end() -> TokenizerError:
    return TokenizerError(
        "the text must go on with a character that this model's vocabulary lacks; leave it out of the schema"
    )


# --- The schema -------------------------------------------------------------------------------------------------------


def _schema(response_format: object) -> dict[str, Any] | None:
    """The JSON schema that is asked for, None for plain text. ``ConfigError`` for what is no response_format."""
    if response_format is None:
        return None
    if not isinstance(response_format, dict):
        raise ConfigError(f"response_format is {type(response_format).__name__}; {_HELP}")
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise ConfigError(f"response_format has the type {_short(kind)}; {_HELP}")
    named = response_format.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise ConfigError(f"response_format has no object json_schema.schema; {_HELP}")
    _require_small(schema)
    return schema


def _require_small(schema: dict[str, Any]) -> None:
    """``ConfigError`` for a schema that may cost more than an answer is worth. Never recurses: it may be any depth."""
    values: list[tuple[Any, int]] = [(schema, 1)]
    seen, patterns, multiples = 0, 0, [Fraction(1)]
    while values:
        value, level = values.pop()
        seen += 1
        if level > MOST_LEVELS:
            raise ConfigError(f"the schema is nested more than {MOST_LEVELS} levels deep; make it flatter")
        if seen + len(values) > MOST_VALUES:
            raise ConfigError(f"the schema has more than {MOST_VALUES:,} values; make it smaller")
        if isinstance(value, list):
            values += [(inner, level + 1) for inner in value]
        if not isinstance(value, dict):
            continue
        for key, inner in value.items():
            values.append((inner, level + 1))
            most = _LARGEST.get(key)
            if most is not None and isinstance(inner, int | float) and not inner <= most:
                raise ConfigError(f"the schema has {key}={_short(inner)}; expected at most {most:,}")
            if key == "pattern" and isinstance(inner, str):
                patterns += len(inner)
            if key == "patternProperties" and isinstance(inner, dict):
                patterns += sum(map(len, inner))
            if key == "multipleOf" and isinstance(inner, int | float) and 0 < abs(inner) < math.inf:
                multiples.append(Fraction(repr(abs(inner))))
    if patterns > LONGEST_PATTERNS:
        raise ConfigError(
            f"the patterns of the schema have {patterns:,} characters together; expected at most {LONGEST_PATTERNS:,}"
        )
    # A number is followed digit by digit, with what its division leaves; and several multipleOf may meet in one number.
    unit = math.lcm(*(multiple.denominator for multiple in multiples))
    if math.lcm(*(int(multiple * unit) for multiple in multiples[1:])) > LARGEST_MULTIPLE:
        raise ConfigError(
            f"what every multipleOf of the schema divides has more than {LARGEST_MULTIPLE:,} units of its last digit; "
            "take fewer or rounder ones"
        )


def _compiled(vocabulary: LLTokenizer, schema: dict[str, Any]) -> LLMatcher:
    """The matcher at the beginning of a text. ``ConfigError`` for a schema that llguidance does not understand."""
    from llguidance import LLMatcher, LLParserLimits

    try:
        text = json.dumps({**schema, "x-guidance": _OPTIONS}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the schema is no JSON: {_line(error)}") from error
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"the schema has {len(text):,} characters; expected at most {MOST_CHARACTERS:,}")
    # Otherwise a text with one way to go on must take the tokens of its encoding, for which llguidance calls back at
    # each step. Here every token is allowed whose bytes fit, and the model chooses.
    grammar = f'%llguidance {{"no_forcing": true}}\nstart: %json {text}'
    matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=LLParserLimits(**_LIMITS))
    if not matcher.is_error():
        # What the first step finds out is no news in the middle of a stream.
        matcher.compute_bitmask()
    if "NoExtension" in matcher.get_error():
        raise ConfigError("no text can be what the schema says; expected one that has an end")
    if matcher.is_error():
        raise ConfigError(f"the schema cannot be followed: {_line(matcher.get_error())}")
    return matcher


# --- The tokenizer ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    """The tokenizer as llguidance knows it: a tree of the bytes of its tokens."""
    try:
        from llguidance import LLTokenizer
    except ImportError as error:
        raise MissingExtraError("response_format needs llguidance; pip install 'gptwo[serve]'") from error
    _require_json(tokenizer)
    return LLTokenizer(cast(Any, _Tokens(tokenizer)))


class _Tokens:
    """What llguidance asks of a tokenizer that it does not know."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.vocab_size)
        # Without a token that ends a text llguidance makes one of its own, beyond the vocabulary.
        self.eos_token_id = tokenizer.eot_id
        self.tokens = [tokenizer.token_bytes(id_) for id_ in ids]
        # The text of a special token must never become part of a string.
        self.special_token_ids = [id_ for id_ in ids if tokenizer.is_special(id_) or id_ == tokenizer.eot_id]


def _require_json(tokenizer: Tokenizer) -> None:
    """``TokenizerError`` for a vocabulary that JSON cannot be written in, or whose tokens are not what they read as."""
    try:
        ids = tokenizer.encode(_JSON_CHARACTERS)
    except TokenizerError as error:
        raise TokenizerError(f"this model cannot write JSON: {error}") from error
    written = b"".join(map(tokenizer.token_bytes, ids))
    if written != _JSON_CHARACTERS.encode() or tokenizer.decode(ids) != _JSON_CHARACTERS:
        raise TokenizerError(
            "this model cannot write JSON: its tokens do not join to the text they stand for"
        )


def _line(error: object) -> str:
    # What llguidance says first; below it are the grammar and its state, and before it a place in our text of it.
    first = str(error).split("\n", 1)[0].rpartition("failed to compile JSON schema: ")[2]
    return _cut(" ".join(first.split()))


def _short(value: object) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:160]}…"
