"""The keyword arguments of every method that writes, named and typed once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict


class SamplingSettings(TypedDict, total=False):
    """The fields of ``sampling.SamplingPolicy``, which has their defaults and their equations."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float] | None
    seed: int | None


class WritingSettings(SamplingSettings, total=False):
    """What a method takes beside its prompt; ``api.LanguageModel`` says what each means."""

    max_new_tokens: int
    stop: str | Sequence[str] | None
    slide: bool
    lookup: bool
