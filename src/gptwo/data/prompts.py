"""Prompts out of a file: one a line, or the field "prompt" of JSON lines."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO

from gptwo.base.errors import DataError
from gptwo.data.compressed import open_binary
from gptwo.data.sources import STDIN, is_json_lines
from gptwo.data.tables import jsonl_records
from gptwo.data.text import decoded_lines


def read_prompts(name: str, *, stdin: IO[bytes]) -> list[str]:
    """The prompts of file ``name`` ("-" is ``stdin``) in their order: every line but the empty ones, without its end.

    Of .jsonl and .ndjson the field "prompt" of every object, whose other fields are ignored. Raises ``DataError``
    naming the line for one without it, and for a file without a prompt.
    """
    file = Path(name)
    with contextlib.nullcontext(stdin) if name == STDIN else open_binary(file) as stream:
        if name != STDIN and is_json_lines(file):
            prompts = [_prompt(where, record) for where, record in jsonl_records(stream, name)]
        else:
            shown = "standard input" if name == STDIN else name
            lines = (line.rstrip("\r\n") for line in decoded_lines(stream, shown))
            prompts = [line for line in lines if line]
    if not prompts:
        raise DataError(f"{name} has no prompt; expected one a line")
    return prompts


def _prompt(where: str, record: dict[str, object]) -> str:
    prompt = record.get("prompt")
    if not isinstance(prompt, str):
        fields = ", ".join(map(repr, list(record)[:8])) or "none"
        raise DataError(f'{where} has the fields {fields}; expected "prompt" with a text')
    return prompt
