"""A conversation as ids: in the template that the model brings, else in the plain one that any vocabulary can write.

    User:
    What does the sea bring?<|endoftext|>Assistant:
    What the rivers gave it.<|endoftext|>

In the plain template every message ends with ``<|endoftext|>``, and a role counts only at the beginning or right after
that token. Text never encodes to it, so nothing that is written in a message can end it or speak for another role, and
two conversations never give the same ids. That token after every turn is DialoGPT's way (Zhang et al. 2020, its
released code). What holds for a template of the model's own: tokenizer/own_template.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gptwo.base.errors import MissingExtraError, TokenizerError

if TYPE_CHECKING:
    from gptwo.tokenizer.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
# Those of OpenAI's API. A template may make a token of a role, so that no others are let through to one.
TEMPLATE_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
ANSWERS = "assistant"

# What transformers renders with; `chat_parts` is the same in Python. Contents lose the space around them, so that the
# new line before one and its first character are never one token, and an answer can be written on from its role alone.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('role ' + message['role'] + ' is unknown; expected system, user or assistant') -}}"
    "{%- endif -%}"
    "{{- message['role'] | capitalize + ':\\n' + message['content'] | trim + eos_token -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:\\n' -}}{%- endif -%}"
)

# A text, or None for <|endoftext|>; and whether the assistant says it.
Part = tuple[str | None, bool]


def require_messages(messages: object, roles: Sequence[str] = ROLES) -> Sequence[Mapping[str, Any]]:
    """``messages`` if they are a list of {"role": one of ``roles``, "content": text}, else ``TokenizerError``."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise TokenizerError(
            f"messages is {_described(messages)}; expected a list of {{'role': …, 'content': …}}"
        )
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise TokenizerError(
                f"message {number} is {_described(message)}; expected an object with role and content"
            )
        role, content = message["role"], message["content"]
        if role not in roles:
            raise TokenizerError(f"message {number} has role {role!r}; expected one of {', '.join(roles)}")
        if not isinstance(content, str):
            raise TokenizerError(f"message {number} has a content of {_described(content)}; expected text")
    return messages


def chat_parts(messages: object) -> list[Part]:
    """The conversation, in the plain template, in parts that encode alone as they do together.

    ``messages`` is a list of {"role": "system" | "user" | "assistant", "content": text}; else ``TokenizerError``.
    """
    parts: list[Part] = []
    for message in require_messages(messages):
        role, content = message["role"], message["content"]
        answer = role == ANSWERS
        parts += [(f"{role.capitalize()}:\n", False), (content.strip(), answer), (None, answer)]
    return parts


def render_chat(tokenizer: Tokenizer, messages: object, *, add_generation_prompt: bool) -> list[int]:
    """The ids of the conversation, with the assistant's role to write on from if so asked; errors as ``chat_parts``.

    ``TokenizerError`` also when the model's own template refuses the messages or fails, and without one when the
    tokenizer has no ``<|endoftext|>``; ``MissingExtraError`` for a template of the model's own without Jinja.
    """
    template = own_template(tokenizer)
    if template is not None:
        try:
            from gptwo.tokenizer.own_template import render_own_template
        except ImportError as error:
            raise MissingExtraError(
                "the model brings a chat template of its own, which needs Jinja; pip install 'gptwo[serve]'"
            ) from error
        given = require_messages(messages, TEMPLATE_ROLES)
        return render_own_template(tokenizer, template, given, add_generation_prompt=add_generation_prompt)
    end = require_plain_chat(tokenizer)
    parts = chat_parts(messages)
    if add_generation_prompt:
        parts.append((f"{ANSWERS.capitalize()}:\n", False))
    return [id_ for text, _ in parts for id_ in ([end] if text is None else tokenizer.encode(text))]


def own_template(tokenizer: Tokenizer) -> str | None:
    """The Jinja that the tokenizer came with, None for the plain template. ``TokenizerError`` if there is none to take.

    Of several with names, as older tokenizer_config.json have them, "default" is taken, as transformers does.
    """
    template = tokenizer.config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default", template)
    if template in (None, CHAT_TEMPLATE):
        return None
    if not isinstance(template, str):
        raise TokenizerError(
            f"the tokenizer's chat_template is {_described(template)}; expected a text, or several of which one is "
            "named default"
        )
    return template


def require_plain_chat(tokenizer: Tokenizer) -> int:
    """The id that ends a message. ``TokenizerError`` for a tokenizer that does not speak the plain template."""
    if tokenizer.eot_id is None:
        raise TokenizerError("the tokenizer has no <|endoftext|>, which ends every message; use one that has")
    if own_template(tokenizer) is not None:
        raise TokenizerError(
            "the tokenizer brings a chat template of its own, and gptwo fine-tunes on messages in its plain one only; "
            "render the messages with render_chat, and give them as prompt and completion"
        )
    return tokenizer.eot_id


def _described(value: object) -> str:
    return "an empty list" if value == [] else f"{type(value).__name__} {str(value)[:40]!r}"
