"""A check of our own for schemathesis, which reads this file: test_serve_fuzzed.py."""

from __future__ import annotations

import re
from typing import Any

import schemathesis

# What no JSON Schema says: tokens of a prompt and max_tokens must fit into the context together; prompts and n have a
# product, and tokens of all texts a sum, that they may not exceed; some fields go only without others.
CODES = {"context_length_exceeded", "request_too_large"}
MESSAGES = "|".join(
    (
        r"expected either a prompt or messages",
        r"expected either a prompt or tokens, got (both|neither)",
        r"layer \d+, (its mlp|head \d+) is changed twice; expected once",
        r"expected of a place either a head or mlp: true",
        r"(layer|head|position|token)=\d+ is not possible; expected 0 to \d+.*",
        r"the second prompt has \d+ tokens; expected \d+, .*",
        r"\d+ texts are asked for at once; expected .*",
        r"best_of=\d+ with n=\d+ can't be streamed, .*",
    )
)


@schemathesis.check
def refused_for_what_no_schema_says(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """A request that is as described may be refused with 400 only for these reasons."""
    if response.status_code != 400 or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    # Where we keep to what clients send: 9.0 is an integer to a schema, and not to us.
    if _has_whole_float(case.body):
        return
    error = response.json()["error"]
    assert error["code"] in CODES or re.fullmatch(MESSAGES, error["message"]), error


def _has_whole_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_whole_float, value.values()))
    if isinstance(value, list):
        return any(map(_has_whole_float, value))
    return isinstance(value, float) and value.is_integer()
