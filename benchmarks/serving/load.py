"""The load: so many clients, each of whom asks, reads the answer, thinks for a moment, and asks again.

A closed loop, because a load is to be said in clients and found out is what a server can do for them; requests that
come at a given rate whether or not any are answered measure that rate on a fast server, and an endless queue on a slow
one. What is asked and when the thinking ends is drawn from a seed, so that every server gets the same.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from serving.client import Answer, stream

PROMPT_TOKENS = (32, 512)
REPLY_TOKENS = (64, 256)
THINK_S = 0.2


class Request(NamedTuple):
    """``prompt`` is text of exactly so many tokens; the client thinks before it asks."""

    prompt: str
    prompt_tokens: int
    max_tokens: int
    think_s: float


class Pages:
    """A long text of which prompts are taken: each begins where a line does, and no two begin alike.

    ``encode`` and ``decode`` are the model's own tokenizer's.
    """

    # No cached block of a server is shorter.
    APART = 16

    def __init__(
        self, text: str, encode: Callable[[str], list[int]], decode: Callable[[Sequence[int]], str], seed: int
    ) -> None:
        self._text, self._encode, self._decode = text, encode, decode
        self._starts = [i + 1 for i, character in enumerate(text) if character == "\n"]
        self._choose = random.Random(seed)
        self._taken: set[tuple[int, ...]] = set()

    def take(self, tokens: int) -> str:
        """A text that the tokenizer makes exactly so many tokens of. ``ValueError`` when the pages are used up."""
        for _ in range(1000):
            start = self._choose.choice(self._starts)
            ids = self._encode(self._text[start : start + 12 * tokens])[:tokens]
            prompt = self._decode(ids)
            beginning = tuple(ids[: self.APART])
            if len(ids) == tokens and self._encode(prompt) == ids and beginning not in self._taken:
                self._taken.add(beginning)
                return prompt
        raise ValueError(f"the text has no more prompts of {tokens} tokens")

    def joins(self, beginning: str, end: str) -> bool:
        """Whether the tokens of both together are those of the one and then of the other."""
        return self._encode(beginning + end) == self._encode(beginning) + self._encode(end)


def draw(clients: int, requests: int, pages: Pages, *, context: int, seed: int) -> list[list[Request]]:
    """For each client what it will ask: ``requests`` in all, lengths log-uniform, thinking exponential.

    In a context of less than 1,024 tokens prompts take half of it at most, and replies a quarter.
    """
    choose = random.Random(seed)

    def length(least: int, most: int, share: int) -> int:
        most = min(most, share)
        return round(math.exp(choose.uniform(math.log(min(least, most)), math.log(most))))

    asked: list[list[Request]] = [[] for _ in range(clients)]
    for number in range(requests):
        tokens, reply = length(*PROMPT_TOKENS, context // 2), length(*REPLY_TOKENS, context // 4)
        asked[number % clients].append(
            Request(pages.take(tokens), tokens, reply, choose.expovariate(1 / THINK_S))
        )
    return asked


async def run(
    port: int, asked: list[list[Request]], body_of: Callable[[str, int], Mapping[str, Any]], limit_s: float
) -> dict[str, float]:
    """Send it all, and say what came: see ``summarize``. After ``limit_s`` everybody leaves.

    Raises what ``stream`` raises as soon as one request fails: a server that does not answer is not timed. Returns when
    the server answers again, for one that answers in turn reads the prompts of those who have left.
    """
    answers: list[Answer] = []

    async def client(requests: list[Request]) -> None:
        for request in requests:
            await asyncio.sleep(request.think_s)
            answers.append(answer := Answer(sent=time.perf_counter(), wanted=request.max_tokens))
            await stream(port, body_of(request.prompt, request.max_tokens), answer)

    began, cpu_began = time.perf_counter(), time.process_time()
    clients = [asyncio.create_task(client(requests)) for requests in asked]
    try:
        done, _ = await asyncio.wait(clients, timeout=limit_s, return_when=asyncio.FIRST_EXCEPTION)
        ended = time.perf_counter()
        cpu_s = time.process_time() - cpu_began
    finally:
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    for task in done:
        task.result()
    if len(done) < len(clients):
        await stream(port, body_of("\n", 1), Answer(sent=ended, wanted=1))
    return {**summarize(answers, began, ended), "client_cpu_share": cpu_s / (ended - began)}


def summarize(answers: Sequence[Answer], began: float, ended: float) -> dict[str, float]:
    """The figures of a load.

    requests_per_s             those answered; one that the limit cut counts by the share of its tokens that came
    tokens_per_s               of the replies
    first_token_p50_s, _p95_s  from sending to the first text; who was still waiting counts with the time waited
    waiting_share              of the requests: those without a first token when the limit came
    token_s                    from token to token: the median over requests of the mean within one
    """
    waits = sorted((ended if a.first is None else a.first) - a.sent for a in answers)
    gaps = sorted((a.last - a.first) / (a.tokens - 1) for a in answers if a.first and a.last and a.tokens > 1)
    tokens = [min(answer.tokens, answer.wanted) for answer in answers]
    answered = sum(
        1 if answer.finish_reason else count / answer.wanted
        for answer, count in zip(answers, tokens, strict=True)
    )
    seconds = ended - began
    return {
        "seconds": seconds,
        "requests": len(answers),
        "tokens": sum(tokens),
        "requests_per_s": answered / seconds,
        "tokens_per_s": sum(tokens) / seconds,
        "first_token_p50_s": percentile(waits, 0.5),
        "first_token_p95_s": percentile(waits, 0.95),
        "waiting_share": sum(a.first is None for a in answers) / max(len(answers), 1),
        "token_s": percentile(gaps, 0.5),
    }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that has at least this share of all at or below it; 0 of none."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else 0.0
