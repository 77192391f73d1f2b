"""From what a client sends as prompt or messages to token ids, within the limits. Texts are encoded off the loop."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from gptwo.base.errors import TokenizerError
from gptwo.infer.engine import Tokens
from gptwo.infer.prompt import require_tokens
from gptwo.serve.errors import ApiError
from gptwo.serve.offload import off_loop
from gptwo.serve.schemas.chat import Message
from gptwo.serve.serving import Serving

# A text costs the time of so many bytes, however short it is.
_TEXT_BYTES = 256

PromptField = str | list[str] | list[int] | list[list[int]] | None


class Prompt(NamedTuple):
    """Ids, and their text."""

    ids: Tokens
    text: str


async def encode_prompts(serving: Serving, field: PromptField) -> list[Prompt]:
    """The prompts, one at least. 400 for ids that the model does not have, and for what can't fit its context."""
    texts: Sequence[str | list[int]]
    if field is None or isinstance(field, str):
        texts = [field or ""]
    else:
        # A list of ids is one prompt, and any other list several.
        texts = [field] if isinstance(field[0], int) else field
    most = serving.settings.max_total_tokens
    if len(texts) > most:
        raise ApiError(
            400, f"{len(texts):,} prompts are asked for; expected at most {most:,} tokens", param="prompt"
        )
    for text in texts:
        _require_possible(serving, len(text), isinstance(text, str), "prompt")
    size = sum(map(len, texts)) + _TEXT_BYTES * len(texts)
    return await off_loop(lambda: [_encoded(serving, text) for text in texts], size)


async def encode_chat(serving: Serving, turns: Sequence[dict[str, str]]) -> Tokens:
    """The conversation up to the answer's role. 400 for what the model's template does not know, and can't fit."""
    size = sum(len(turn["content"]) for turn in turns)
    _require_possible(serving, size, True, "messages")
    ids = await off_loop(partial(serving.tokenizer.render_chat, turns), size + _TEXT_BYTES * len(turns))
    require_prompt_room(serving, len(ids), "messages")
    return np.array(ids, dtype=np.int64)


def chat_turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """As chat templates take them."""
    return [
        {"role": "system" if message.role == "developer" else message.role, "content": message.text}
        for message in messages
    ]


def require_prompt_room(serving: Serving, count: int, param: str, *, more: str = "") -> None:
    """400 when ``count`` tokens, or ``more``, are more than one prompt may have."""
    most = serving.most_prompt_tokens
    if count > most:
        raise ApiError(
            400,
            # Clients tell this error from others by OpenAI's words for the context.
            f"{param} has {more}{count:,} tokens; expected at most {most:,}, and this model's maximum context length "
            f"is {serving.context:,} tokens; shorten it",
            param=param,
            code="context_length_exceeded",
        )


def _require_possible(serving: Serving, length: int, is_text: bool, param: str) -> None:
    # A token has no more characters than bytes, so this many tokens there are at least: too many need not be encoded.
    least = -(-length // serving.longest_token_bytes) if is_text else length
    require_prompt_room(serving, least, param, more="at least " if is_text else "")


def _encoded(serving: Serving, text: str | list[int]) -> Prompt:
    tokenizer = serving.tokenizer
    if isinstance(text, str):
        ids = tokenizer.encode_arrays([text])[0]
    else:
        try:
            ids = require_tokens(text, serving.loaded.config.vocab_size)
        except TokenizerError as error:
            raise ApiError(400, str(error), param="prompt", code="invalid_value") from error
    if not len(ids):
        if tokenizer.eot_id is None:
            raise TokenizerError(
                "the prompt is empty and the tokenizer has no <|endoftext|> to begin from; send a text"
            )
        ids = np.array([tokenizer.eot_id], dtype=np.int64)
    require_prompt_room(serving, len(ids), "prompt")
    return Prompt(ids, text if isinstance(text, str) and text else tokenizer.decode(ids.tolist()))
