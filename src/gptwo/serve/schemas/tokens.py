"""POST /tokenize and /detokenize, GET /tokenizer_info: as vLLM has them, and lm-evaluation-harness asks for them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptwo.serve.schemas.base import ReplyBody, RequestBody
from gptwo.serve.schemas.chat import Messages
from gptwo.serve.schemas.sampling import TokenId


class TokenizeRequest(RequestBody):
    """A text, or a conversation, to be encoded."""

    prompt: str | None = None
    messages: Messages | None = Field(None, description="instead of a prompt")
    add_generation_prompt: bool = Field(
        True, description="with messages: the role of the answer ends the ids"
    )
    add_special_tokens: bool = Field(True, description="changes nothing: GPT-2's tokenizers add none")
    parse_special: bool = Field(
        True,
        description="<|endoftext|> in the prompt is its token here; prompts of /v1/completions keep it as text",
    )
    return_token_strs: bool = False


class TokenizeReply(ReplyBody):
    """The ids, and how many the model has room for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(RequestBody):
    """Ids to be decoded."""

    tokens: Annotated[list[TokenId], Field(fail_fast=True)]


class DetokenizeReply(ReplyBody):
    """Their text; bytes that are not UTF-8 are U+FFFD."""

    prompt: str


class TokenizerInfo(ReplyBody):
    """What a client has to know of the tokenizer."""

    tokenizer_class: str
    kind: Literal["gpt2", "bpe", "char", "byte", "other"]
    vocab_size: int
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    pad_token: None
    chat_template: str | None = Field(description="in jinja; the plain one where the model brings none")
