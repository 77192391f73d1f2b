"""What is asked of the loop that writes, and what comes out. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from gptwo.base.errors import ConfigError
from gptwo.infer.constraint import Constraint
from gptwo.infer.engine import Tokens
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.stop import StopMatcher

FinishReason = Literal["stop", "length"]


def require_count(name: str, value: object) -> None:
    """``ConfigError`` unless ``value`` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}={value!r} is not possible; expected a whole number of at least 1")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompts to go on from, and how. Text i follows prompt i and draws with seed + i.

    batch            how many are written side by side, None for all
    ignore_eos       ``<|endoftext|>`` does not end a text
    top_logprobs     how many of the most probable tokens to report beside each one
    prompt_logprobs  report the probabilities of the prompt's tokens too
    whole_characters half a character at the end is left out, and not shown as U+FFFD
    constraint       makes for each text what keeps it to a form

    Raises ``ConfigError`` for settings that cannot be. Without a tokenizer there is no text, and no stop string in it.
    """

    prompts: Sequence[Tokens]
    policy: SamplingPolicy
    max_new_tokens: int
    batch: int | None = None
    stop: Sequence[str] = ()
    slide: bool = False
    lookup: bool = False
    ignore_eos: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    whole_characters: bool = False
    constraint: Callable[[], Constraint] | None = None

    def __post_init__(self) -> None:
        require_count("max_new_tokens", self.max_new_tokens)
        if self.batch is not None:
            require_count("batch", self.batch)
        StopMatcher(self.stop)
        if self.policy.seed is not None:
            # The last text's must be possible too.
            replace(self.policy, seed=self.policy.seed + len(self.prompts) - 1)


class Token(NamedTuple):
    """A token of a text, log p of it under the model itself, and the most probable ones there: (id, log p) of each."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What was written after a prompt.

    text            the new text, without the stop string and ``<|endoftext|>``; "" when the model has no tokenizer
    tokens          the new ids, up to and with the one that ended the text
    logprobs        natural-log probability of each new id under the model itself: temperature 1, no bias, no penalty,
                    no filter
    finish_reason   "stop": ``<|endoftext|>`` or a stop string · "length": max_new_tokens, or the context is full
    seed            what to pass as ``seed`` to get this again
    prompt_tokens   ids that the model was given
    notice          one line for the user when something was not as they may expect, else None
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    seed: int
    prompt_tokens: int
    notice: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types, under their own names."""
        return asdict(self)
