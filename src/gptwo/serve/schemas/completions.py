"""POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptwo.serve.schemas.base import FinishReason, ReplyBody, Usage, expecting
from gptwo.serve.schemas.sampling import Candidates, NoneOrMore, SamplingFields, TokenId

MOST_LOGPROBS = 20
MOST_PROMPTS = 2048

TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Prompt = Annotated[
    str
    | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)],
    Field(union_mode="left_to_right"),
    expecting(
        "a string, a list of strings, a list of token ids, or a list of such lists; at most "
        f"{MOST_PROMPTS:,} prompts"
    ),
]


class CompletionRequest(SamplingFields):
    """A text, or several, to go on from."""

    prompt: Prompt | None = Field(None, description="left out, or empty, the text begins at <|endoftext|>")
    max_tokens: NoneOrMore | None = Field(None, description="most tokens to write; default 16")
    best_of: Candidates | None = Field(
        None,
        description="write so many, and answer with the n of the best mean log-probability; not in a stream",
    )
    echo: bool | None = Field(None, description="answer with the prompt before the text")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MOST_LOGPROBS,
        description="log-probabilities of each token, and of so many alternatives",
    )
    return_token_ids: bool | None = Field(None, description="answer with the ids of the tokens written, too")
    suffix: Annotated[None, expecting("none: GPT-2 writes on, it does not fill in")] = None


class CompletionLogprobs(ReplyBody):
    """Natural logarithms under the model itself: temperature 1, no bias, no penalty, no filter.

    A token that is not UTF-8 by itself is written ``bytes:\\xe2\\x82``. ``top_logprobs`` has the alternatives that were
    asked for, and the token itself. The first token of an echoed prompt follows nothing: null.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="where in the text each token begins, in characters")


class CompletionChoice(ReplyBody):
    """One text; in a stream, its next piece."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] | None = Field(
        None, description="with return_token_ids; the prompt's are not among them"
    )


class Completion(ReplyBody):
    """The texts: choice i of prompt p has the index p · n + i. In a stream, each event is one of these."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
