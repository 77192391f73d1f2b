"""What the routes serve: the model and the writer, once they are there, and what the server was told."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from gptwo.base.errors import MissingExtraError, TokenizerError
from gptwo.serve import grammar
from gptwo.serve.errors import ApiError

if TYPE_CHECKING:
    from gptwo.infer.api import LanguageModel
    from gptwo.serve.explaining.explaining import Explaining
    from gptwo.serve.metrics import Metrics
    from gptwo.serve.settings import ServeSettings
    from gptwo.serve.writer import Writer
    from gptwo.tokenizer.tokenizer import Tokenizer


@dataclass
class Serving:
    """One model and its server. ``ready`` becomes True when ``model`` and ``writer`` are set, False when it closes.

    The model has to have a tokenizer. What a route asks of it is there after ``require_ready`` alone.
    """

    settings: ServeSettings
    metrics: Metrics
    model: LanguageModel | None = None
    writer: Writer | None = None
    explaining: Explaining | None = None
    """None where the server does not explain."""
    ready: bool = False
    started: int = field(default_factory=lambda: int(time.time()))
    slow_work: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """For what takes a thread for long: strangers' schemas and long texts must not take all threads from the others."""

    @property
    def status(self) -> Literal["ok", "loading", "closing"]:
        """What the server is doing."""
        return "ok" if self.ready else "loading" if self.writer is None else "closing"

    def require_ready(self) -> None:
        """503 while the model loads and when the server closes."""
        if not self.ready:
            doing = "the model is loading" if self.status == "loading" else "the server is going down"
            raise ApiError(503, f"{doing}; ask again later", code=self.status)

    @property
    def loaded(self) -> LanguageModel:
        """The model."""
        assert self.model is not None
        return self.model

    @property
    def open_writer(self) -> Writer:
        """The writer."""
        assert self.writer is not None
        return self.writer

    @property
    def open_explaining(self) -> Explaining:
        """What explains the model; 404 where the server was told not to."""
        self.require_ready()
        if self.explaining is None:
            raise ApiError(
                404, "this server does not explain (gptwo serve --no-explain)", code="no_explanations"
            )
        return self.explaining

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.loaded.tokenizer

    @property
    def context(self) -> int:
        """Tokens of a prompt and its text together."""
        return self.loaded.config.context

    @property
    def most_prompt_tokens(self) -> int:
        """Of one prompt."""
        return min(self.context, self.settings.max_prompt_tokens or self.context)

    @cached_property
    def longest_token_bytes(self) -> int:
        """No token stands for more bytes of a text."""
        characters = max(map(len, self.tokenizer.vocabulary.values()))
        return characters if self.tokenizer.kind in ("gpt2", "bpe", "byte") else 4 * characters

    def prepare(self) -> None:
        """What a first request would wait for: of the tokenizer, when the model is set. Takes time; to be off the loop.

        Raises ``TokenizerError`` for a model without one.
        """
        self.tokenizer.encode("", allow_special=True)
        assert self.longest_token_bytes
        with suppress(MissingExtraError, TokenizerError):
            # Without llguidance, or with a tokenizer that cannot write JSON, a request that wants it is told so.
            grammar.constraint({"type": "json_object"}, self.tokenizer, self.loaded.config.vocab_size)

    def require_model(self, asked: str | None) -> None:
        """404 for another model's name; a name that is left out is this one's."""
        if asked is not None and asked != self.settings.model_name:
            raise ApiError(
                404,
                f"there is no model {asked[:100]!r}; expected {self.settings.model_name!r}",
                param="model",
                code="model_not_found",
            )
