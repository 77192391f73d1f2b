"""A conversation in the template that a model brings: the ids of transformers' `apply_chat_template`, but safe.

transformers encodes the rendered text as one, so that ``<|im_end|>`` typed by a user ends their message, and what they
type after it can speak for another role. Here a special token stands only where the template wrote it. To tell the two
apart, the template renders a second time with characters of special tokens in the messages exchanged for private ones,
one for one: what still reads as a special token is the template's, and the rest is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from gptwo.base.errors import TokenizerError
from gptwo.tokenizer.template import render_template
from gptwo.tokenizer.tokenizer import EOT, Tokenizer

_PRIVATE = range(0xF0000, 0xFFFFE)
_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def render_own_template(
    tokenizer: Tokenizer, template: str, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool
) -> list[int]:
    """The ids of ``messages`` in the Jinja ``template``.

    Equal to ``apply_chat_template`` of transformers where no message holds the text of a special token. Where one does,
    it is encoded as text; a template whose output depends on it is refused. ``TokenizerError``: that, a template that
    refuses the messages or fails, and messages that are no JSON.
    """
    variables = {
        **_named_tokens(tokenizer),
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        # One time of day for all renderings.
        "strftime_now": datetime.now().strftime,
    }
    given = _plain(messages)

    def render(messages: object) -> str:
        return render_template(template, {**variables, "messages": messages})

    text = render(given)
    longest_first = sorted(tokenizer.specials, key=len, reverse=True)
    special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    marked = _marked(text, given, render, tokenizer.specials, special)
    spans = [found.span() for found in special.finditer(marked)]
    if spans == [found.span() for found in special.finditer(text)]:
        return tokenizer.encode(text, allow_special=True)
    ids: list[int] = []
    end = 0
    for start, stop in spans:
        ids += [*tokenizer.encode(text[end:start]), tokenizer.specials[text[start:stop]]]
        end = stop
    return ids + tokenizer.encode(text[end:])


def _marked(
    text: str,
    messages: Any,
    render: Callable[[object], str],
    specials: Mapping[str, int],
    special: re.Pattern[str],
) -> str:
    """``text``, rendered of the messages, with private characters where a message's text could be a special token."""
    ends = sorted({character for special in specials for character in (special[0], special[-1])})
    written = "".join(_strings(messages))
    if not any(character in written for character in ends):
        return text
    taken = set(text) | set(written)
    free = (chr(point) for point in _PRIVATE if chr(point) not in taken)
    private = dict(zip(map(ord, ends), free, strict=False))
    if len(private) < len(ends):
        raise TokenizerError("the messages hold every private character of Unicode; take some out")
    back = {ord(stands): chr(point) for point, stands in private.items()}
    # First every character that could begin or end a special token, so that none can be put together of pieces. A
    # template may look for one of them, in </think> say, and write something else then; so next whole tokens alone.
    for mark in (
        lambda string: string.translate(private),
        lambda string: special.sub(lambda found: found[0].translate(private), string),
    ):
        marked = render(_changed(messages, mark))
        if marked.translate(back) == text:
            return marked
    raise TokenizerError(
        "the model's chat template writes something else where a message has the text of a special token, "
        f"such as {next(iter(specials))!r}; take it out of the message"
    )


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with every text of it changed but keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    return value


def _strings(value: Any) -> list[str]:
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    _changed(value, note)
    return found


def _plain(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A copy in JSON's types alone, so that a template meets no object with methods; without keys that are None."""
    present = [{key: value for key, value in message.items() if value is not None} for message in messages]
    try:
        plain: list[dict[str, Any]] = json.loads(json.dumps(present, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TokenizerError(
            f"the messages are no JSON ({error}); expected texts, lists and objects"
        ) from error
    return plain


def _named_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """bos_token, eos_token, ... as tokenizer_config.json names them, for GPT-2's own class with its defaults."""
    config = tokenizer.config
    names = {}
    if tokenizer.eot_id is not None and str(config.get("tokenizer_class", "GPT2")).startswith("GPT2"):
        names = {"bos_token": EOT, "eos_token": EOT, "unk_token": EOT}
    for name in (f"{part}_token" for part in _NAMED):
        value = config.get(name)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            names[name] = content
    return names
