"""The plain chat template: a conversation as text that any GPT-2 vocabulary can encode.

    User:
    What does the sea bring?<|endoftext|>Assistant:
    What the rivers gave it.<|endoftext|>

Every message ends with ``<|endoftext|>``, and a role counts only at the beginning or right after that token. Text never
encodes to it, so nothing that is written in a message can end it or speak for another role, and two conversations never
give the same ids. That token after every turn is DialoGPT's way (Zhang et al. 2020, its released code).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gptwo.base.errors import TokenizerError

if TYPE_CHECKING:
    from gptwo.tokenizer.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
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


def chat_parts(messages: object) -> list[Part]:
    """The conversation in parts that encode alone as they do together.

    ``messages`` is a list of {"role": "system" | "user" | "assistant", "content": text}; else ``TokenizerError``.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise TokenizerError(
            f"messages is {_described(messages)}; expected a list of {{'role': …, 'content': …}}"
        )
    parts: list[Part] = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise TokenizerError(
                f"message {number} is {_described(message)}; expected an object with role and content"
            )
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise TokenizerError(f"message {number} has role {role!r}; expected one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise TokenizerError(f"message {number} has a content of {_described(content)}; expected text")
        answer = role == ANSWERS
        parts += [(f"{role.capitalize()}:\n", False), (content.strip(), answer), (None, answer)]
    return parts


def render_chat(tokenizer: Tokenizer, messages: object, *, add_generation_prompt: bool) -> list[int]:
    """The ids of the conversation, with the assistant's role to write on from if so asked; errors as ``chat_parts``.

    ``TokenizerError`` also when the tokenizer has no ``<|endoftext|>``, or brings a template of its own.
    """
    end = require_plain_chat(tokenizer)
    parts = chat_parts(messages)
    if add_generation_prompt:
        parts.append((f"{ANSWERS.capitalize()}:\n", False))
    return [id_ for text, _ in parts for id_ in ([end] if text is None else tokenizer.encode(text))]


def require_plain_chat(tokenizer: Tokenizer) -> int:
    """The id that ends a message. ``TokenizerError`` for a tokenizer that cannot speak this template."""
    if tokenizer.eot_id is None:
        raise TokenizerError("the tokenizer has no <|endoftext|>, which ends every message; use one that has")
    if tokenizer.config.get("chat_template") not in (None, CHAT_TEMPLATE):
        raise TokenizerError(
            "the tokenizer brings a chat template of its own, and gptwo writes its plain one only; "
            "render the messages with transformers, and give them as prompt and completion"
        )
    return tokenizer.eot_id


def _described(value: object) -> str:
    return "an empty list" if value == [] else f"{type(value).__name__} {str(value)[:40]!r}"
