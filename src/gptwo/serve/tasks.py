"""From a request's fields to the task of the writer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gptwo.base.errors import GptwoError
from gptwo.infer.engine import Tokens
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.task import Task
from gptwo.serve import grammar
from gptwo.serve.errors import ApiError
from gptwo.serve.schemas.sampling import SamplingFields
from gptwo.serve.serving import Serving

if TYPE_CHECKING:
    from gptwo.infer.constraint import Constraint


def choices_of(serving: Serving, n: int | None, best_of: int | None = None) -> tuple[int, int]:
    """How many choices are sent for each prompt, and how many are written. 400 past the server's limits."""
    sent = 1 if n is None else n
    written = sent if best_of is None else best_of
    settings = serving.settings
    for name, value, most in (("n", sent, settings.max_n), ("best_of", written, settings.max_best_of)):
        if value > most:
            raise ApiError(400, f"{name}={value} is not possible; expected at most {most}", param=name)
    if written < sent:
        raise ApiError(
            400, f"best_of={written} is less than n={sent}; expected at least as many", param="best_of"
        )
    return sent, written


def new_tokens(serving: Serving, prompts: Sequence[Tokens], asked: int | None, *, texts_each: int) -> int:
    """The most tokens of each text: ``asked``, or for None what the context and the limit of a request leave.

    400 when a prompt and its text are more than the context, or all together more than a request may have.
    """
    longest, total = max(map(len, prompts)), sum(map(len, prompts))
    texts, most = texts_each * len(prompts), serving.settings.max_total_tokens
    if asked is None:
        asked = max(1, min(serving.context - longest, (most - texts_each * total) // texts))
    if longest + asked > serving.context:
        raise ApiError(
            400,
            # Clients tell this error from others by OpenAI's words for the context.
            f"this model's maximum context length is {serving.context:,} tokens; the prompt has {longest:,} and "
            f"max_tokens is {asked:,}, together {longest + asked:,}; shorten the prompt or ask for fewer",
            param="max_tokens",
            code="context_length_exceeded",
        )
    if (needed := texts_each * total + texts * asked) > most:
        raise ApiError(
            400,
            f"{texts:,} texts of up to {asked:,} tokens after their prompts are {needed:,} tokens; expected at most "
            f"{most:,} in a request; send fewer prompts at a time, or ask for fewer choices or tokens",
            param="max_tokens",
            code="request_too_large",
        )
    return asked


async def make_task(
    serving: Serving,
    fields: SamplingFields,
    prompts: Sequence[Tokens],
    *,
    max_new_tokens: int,
    top_logprobs: int = 0,
    prompt_logprobs: bool = False,
) -> Task:
    """The task that ``fields`` describe. ``ConfigError`` for what can't be together, a schema's faults included."""
    return Task(
        prompts=prompts,
        policy=_policy(serving, fields),
        max_new_tokens=max_new_tokens,
        stop=[fields.stop] if isinstance(fields.stop, str) else fields.stop or (),
        ignore_eos=bool(fields.ignore_eos),
        top_logprobs=top_logprobs,
        prompt_logprobs=prompt_logprobs,
        constraint=await _constraint(serving, fields),
    )


def _policy(serving: Serving, fields: SamplingFields) -> SamplingPolicy:
    last = serving.loaded.config.vocab_size - 1
    for token in fields.bias or ():
        if token > last:
            raise ApiError(
                400,
                f"logit_bias has id {token}; expected ids of the model, 0 to {last}",
                param="logit_bias",
                code="invalid_value",
            )
    return SamplingPolicy(
        temperature=_or(fields.temperature, 1.0),
        top_k=fields.top_k if fields.top_k is not None and fields.top_k > 0 else None,
        # OpenAI takes 0, and one token is always kept.
        top_p=None if fields.top_p is None else max(fields.top_p, sys.float_info.min),
        min_p=fields.min_p,
        repetition_penalty=_or(fields.repetition_penalty, 1.0),
        presence_penalty=_or(fields.presence_penalty, 0.0),
        frequency_penalty=_or(fields.frequency_penalty, 0.0),
        logit_bias=fields.bias,
        seed=fields.seed,
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


async def _constraint(serving: Serving, fields: SamplingFields) -> Callable[[], Constraint] | None:
    wanted = fields.response_format
    if wanted is None or wanted.type == "text":
        return None
    described, vocab_size = wanted.model_dump(by_alias=True), serving.loaded.config.vocab_size
    try:
        # A schema of a line can be long to compile: never on the loop, and never in all of its threads.
        async with serving.slow_work:
            return await asyncio.to_thread(grammar.constraint, described, serving.tokenizer, vocab_size)
    except GptwoError as error:
        raise ApiError(400, str(error), param="response_format") from error
