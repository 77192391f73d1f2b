"""The texts of a task as one reply: gathered to the end, counted, and given up when nobody waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi.requests import Request
from fastapi.responses import Response

from gptwo.infer.task import FinishReason, Token
from gptwo.serve.events import unless_gone
from gptwo.serve.logs import log_facts
from gptwo.serve.offload import encode_in_parts, off_loop
from gptwo.serve.writing import Piece, Writing

# Of a token with its log-probability, in JSON: what an alternative adds is about the same.
_TOKEN_BYTES = 64
CLIENT_CLOSED = 499
"""What the log has for a request whose client left: no reply reaches it."""


@dataclass
class WrittenText:
    """One text, all of it."""

    pieces: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    prompt: tuple[Token | None, ...] = ()
    finish_reason: FinishReason | None = None

    @property
    def text(self) -> str:
        """In one piece."""
        return "".join(self.pieces)

    @property
    def mean_logprob(self) -> float:
        """(1/n) Σ log p of its n tokens: what best_of ranks by."""
        return sum(token.logprob for token in self.tokens) / max(1, len(self.tokens))


class Tally:
    """The pieces of a task as they come, counted. ``close`` ends the task, and puts the counts into the request's log.

    With ``drop``, the texts are not wanted, only what is known of their prompts.
    """

    def __init__(self, request: Request, writing: Writing, *, drop: bool = False) -> None:
        self._writing = writing
        self._drop = drop
        self._facts = log_facts(request)
        self._completion_tokens = 0
        self._finish_reasons: list[FinishReason] = []

    def __aiter__(self) -> Tally:
        return self

    async def __anext__(self) -> Piece:
        piece = await anext(self._writing)
        if self._drop:
            piece = piece._replace(text="", tokens=(), finish_reason=piece.finish_reason and "length")
        self._completion_tokens += len(piece.tokens)
        if piece.finish_reason is not None:
            self._finish_reasons.append(piece.finish_reason)
        return piece

    @property
    def usage(self) -> dict[str, Any]:
        """OpenAI's counts, so far."""
        return {
            "prompt_tokens": self._writing.prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._writing.prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self._writing.cached_tokens},
        }

    def close(self) -> None:
        """Nothing more is wanted. Nothing happens if all has come."""
        self._facts |= {
            "prompt_tokens": self._writing.prompt_tokens,
            "cached_tokens": self._writing.cached_tokens,
            "completion_tokens": self._completion_tokens,
            "finish_reasons": ",".join(self._finish_reasons),
        }
        self._writing.cancel()


async def whole_reply(
    request: Request,
    tally: Tally,
    count: int,
    envelope: Mapping[str, Any],
    choices_of: Callable[[list[WrittenText]], Iterable[dict[str, Any]]],
) -> Response:
    """The JSON of a task's ``count`` texts in ``envelope``. Ends the task if the client goes before."""
    try:
        texts = await unless_gone(request.receive, _gather(tally, count))
    finally:
        tally.close()
    if texts is None:
        return Response(status_code=CLIENT_CLOSED)
    tokens = [token for text in texts for token in (*text.tokens, *text.prompt) if token is not None]
    size = _TOKEN_BYTES * sum(1 + len(token.top) for token in tokens)
    fields = {**envelope, "usage": tally.usage}
    body = await off_loop(
        lambda: encode_in_parts(fields, choices=([choice] for choice in choices_of(texts))), size
    )
    return Response(body, media_type="application/json")


async def _gather(tally: Tally, count: int) -> list[WrittenText]:
    texts = [WrittenText() for _ in range(count)]
    async for piece in tally:
        text = texts[piece.number]
        text.pieces.append(piece.text)
        text.tokens += piece.tokens
        text.prompt = text.prompt or piece.prompt
        text.finish_reason = piece.finish_reason
    return texts
