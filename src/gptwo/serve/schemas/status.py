"""GET /v1/models, /health, /version."""

from __future__ import annotations

from typing import Literal

from gptwo.serve.schemas.base import ReplyBody


class Model(ReplyBody):
    """What is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["gptwo"]
    max_model_len: int


class ModelList(ReplyBody):
    """The one model, in OpenAI's list."""

    object: Literal["list"]
    data: list[Model]


class Health(ReplyBody):
    """Whether requests are answered."""

    status: Literal["ok", "loading", "closing"]


class Version(ReplyBody):
    """Of gptwo."""

    version: str
