"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gptwo.serve.schemas.base import FinishReason, ReplyBody, RequestBody, Usage, expecting
from gptwo.serve.schemas.completions import MOST_LOGPROBS
from gptwo.serve.schemas.sampling import OneOrMore, SamplingFields


class TextPart(RequestBody):
    """A part of a message."""

    type: Literal["text"]
    text: str


Content = Annotated[
    str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)],
    expecting("a string, or a list of text parts"),
]


class Message(RequestBody):
    """One turn. ``developer`` is OpenAI's newer name of ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    @property
    def text(self) -> str:
        """The content in one piece."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


Messages = Annotated[list[Message], Field(min_length=1, max_length=2048, fail_fast=True)]
Nothing = Annotated[Annotated[list[Any], Field(max_length=0)] | None, expecting("none: tools are not called")]
NoTool = Annotated[Literal["none", "auto"] | None, expecting('"none" or "auto": tools are not called')]


class ChatRequest(SamplingFields):
    """A conversation to answer."""

    messages: Messages
    max_tokens: OneOrMore | None = Field(None, description="default what the context leaves")
    max_completion_tokens: OneOrMore | None = Field(
        None, description="the newer name of max_tokens, and goes before it"
    )
    logprobs: bool | None = Field(None, description="log-probabilities of each token")
    top_logprobs: int | None = Field(
        None, ge=0, le=MOST_LOGPROBS, description="and of so many alternatives; with logprobs"
    )
    tools: Nothing = None
    functions: Nothing = None
    tool_choice: NoTool = None
    function_call: NoTool = None
    modalities: list[Literal["text"]] | None = None
    audio: Annotated[None, expecting("none: answers are text")] = None

    @property
    def most(self) -> int | None:
        """The most tokens of an answer, by either name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TokenLogprob(ReplyBody):
    """A token and its natural logarithm under the model itself; ``bytes`` are exact where ``token`` cannot be."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TokenLogprob):
    """With the alternatives, best first."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(ReplyBody):
    """Of every token that was drawn, in order; those that ended the text are among them."""

    content: list[TokenLogprobs]


class AnswerMessage(ReplyBody):
    """The model's turn."""

    role: Literal["assistant"]
    content: str


class ChatChoice(ReplyBody):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(ReplyBody):
    """The answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(ReplyBody):
    """What comes next in an answer: its role first, then text, then nothing."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(ReplyBody):
    """The next piece of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(ReplyBody):
    """An event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
