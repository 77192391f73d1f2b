"""Log-probabilities in OpenAI's two forms: of completions, which lm-evaluation-harness reads, and of chat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gptwo.infer.task import Token
from gptwo.tokenizer.stream import TextStream
from gptwo.tokenizer.tokenizer import Tokenizer


def token_name(tokenizer: Tokenizer, token_id: int) -> str:
    """The token's text; ``bytes:\\xe2\\x82`` for one that is not UTF-8 by itself, as OpenAI writes them.

    So two tokens hardly ever have one name, and alternatives can be told apart by theirs.
    """
    content = tokenizer.token_bytes(token_id)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


class CompletionLogprobs:
    """The ``logprobs`` of a choice of /v1/completions, in one piece or several; offsets go on from one to the next."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer)
        self._offset = 0

    def next(self, entries: Sequence[tuple[int, Token | None]], *, echoed: int = 0) -> dict[str, list[Any]]:
        """Of the next tokens, with their ids. None: nothing comes before a prompt's first, so nothing predicts it.

        The first ``echoed`` are a prompt's, whose <|endoftext|> is text; one that is written is none.
        """
        offsets = []
        for place, (token_id, _) in enumerate(entries):
            offsets.append(self._offset)
            if place < echoed or token_id != self._tokenizer.eot_id:
                self._offset += len(self._text.push(token_id))
        return {
            "tokens": [token_name(self._tokenizer, token_id) for token_id, _ in entries],
            "token_logprobs": [token.logprob if token else None for _, token in entries],
            "top_logprobs": [self._top(token) if token else None for _, token in entries],
            "text_offset": offsets,
        }

    def _top(self, token: Token) -> dict[str, float]:
        # The best first, so that of two with one name it is the best that counts.
        names: dict[str, float] = {}
        for token_id, logprob in (*token.top, (token.id, token.logprob)):
            names.setdefault(token_name(self._tokenizer, token_id), logprob)
        return names


def chat_logprobs(tokenizer: Tokenizer, tokens: Iterable[Token]) -> dict[str, list[dict[str, Any]]]:
    """The ``logprobs`` of a choice of /v1/chat/completions, whole or a part of it."""
    return {
        "content": [
            {
                **_chat_entry(tokenizer, token.id, token.logprob),
                "top_logprobs": [_chat_entry(tokenizer, *alternative) for alternative in token.top],
            }
            for token in tokens
        ]
    }


def _chat_entry(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    return {
        "token": token_name(tokenizer, token_id),
        "logprob": logprob,
        "bytes": list(tokenizer.token_bytes(token_id)),
    }
