"""What all schemas share: strict requests, errors in one voice, the body of an error, counts of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, WrapValidator
from pydantic_core import PydanticCustomError


class RequestBody(BaseModel):
    """A JSON object from a client. Fields that are not known are ignored, as OpenAI's clients send new ones."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore", frozen=True)


class ReplyBody(BaseModel):
    """A JSON object for a client."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def expecting(words: str) -> WrapValidator:
    """One error, "expected ``words``", where a union's branches would each bring one of its own."""

    def check(value: Any, validate: Callable[[Any], Any], _: ValidationInfo) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError("expected", "{words}", {"words": words}) from None

    return WrapValidator(check)


class ErrorFacts(ReplyBody):
    """What was wrong: ``param`` is the field at fault, ``code`` the kind of error, for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(ReplyBody):
    """Every reply that is not 200."""

    error: ErrorFacts


class PromptTokensDetails(ReplyBody):
    """Prompt tokens whose keys and values were in the prefix cache."""

    cached_tokens: int = Field(ge=0)


class Usage(ReplyBody):
    """Tokens. A prompt counts once however many choices follow it; all texts that were written count, best_of's too."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)
    prompt_tokens_details: PromptTokensDetails


FinishReason = Literal["stop", "length"]
