"""The same request gives the same bytes, whoever else is being served: text and log-probabilities, bit for bit.

Each request is first answered alone. Then again: from the prefix cache, in a stream, among fifteen others, and on a
server whose cache is so small that texts are put aside and begun anew.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gptwo.base.errors import NativeLibraryError
from gptwo.kernels.interface import native_library
from running_server import TEXT, RunningServer, running_server


def why_not_native() -> str:
    try:
        native_library()
    except NativeLibraryError as error:
        return str(error)
    return ""


# Only the native engine promises it.
pytestmark = pytest.mark.skipif(bool(why_not_native()), reason=why_not_native())

MESSAGES = [{"role": "user", "content": TEXT[:150]}]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": (COMPLETIONS, {"prompt": TEXT[:200], "temperature": 0, "max_tokens": 60, "logprobs": 5}),
    "drawn": (
        COMPLETIONS,
        {
            "prompt": TEXT[50:300],
            "temperature": 1.3,
            "top_p": 0.9,
            "seed": 11,
            "n": 3,
            "logprobs": 2,
            "max_tokens": 80,
        },
    ),
    "several prompts": (
        COMPLETIONS,
        {
            "prompt": [TEXT[:9], TEXT[:777], "a"],
            "seed": 5,
            "echo": True,
            "logprobs": 1,
            "max_tokens": 30,
            "top_k": 40,
        },
    ),
    "penalties": (
        COMPLETIONS,
        {
            "prompt": "rain",
            "seed": 2,
            "presence_penalty": 0.5,
            "frequency_penalty": 0.3,
            "repetition_penalty": 1.2,
            "logprobs": 1,
            "max_tokens": 100,
            "ignore_eos": True,
        },
    ),
    "stop strings": (
        COMPLETIONS,
        {"prompt": TEXT[:64], "seed": 9, "stop": ["ea", " t"], "logprobs": 1, "max_tokens": 200},
    ),
    "chat": (
        CHAT,
        {"messages": MESSAGES, "seed": 1, "logprobs": True, "top_logprobs": 4, "max_tokens": 60, "n": 2},
    ),
    "json": (
        CHAT,
        {
            "messages": MESSAGES,
            "seed": 3,
            "logprobs": True,
            "max_tokens": 40,
            "response_format": {"type": "json_object"},
        },
    ),
    "long": (
        COMPLETIONS,
        {
            "prompt": TEXT[:1100],
            "temperature": 0.8,
            "seed": 1,
            "logprobs": 1,
            "max_tokens": 300,
            "ignore_eos": True,
        },
    ),
}
# Answered whole and not in a stream.
BEST_OF: tuple[str, dict[str, Any]] = (
    COMPLETIONS,
    {"prompt": TEXT[:180], "seed": 4, "best_of": 4, "n": 2, "logprobs": 1, "max_tokens": 40},
)
WHOLE = {**REQUESTS, "best of": BEST_OF}
# Prompts of less than a block, or whose own log-probabilities are asked for.
READ_WHOLE = {"several prompts", "penalties", "stop strings"}
each_request = pytest.mark.parametrize("which", WHOLE)


def without_time(answer: dict[str, Any]) -> dict[str, Any]:
    """What must be equal: the answer less its id, its time, and how much of the prompt had been read before."""
    usage = {key: value for key, value in answer["usage"].items() if key != "prompt_tokens_details"}
    return {**{key: answer[key] for key in ("object", "model", "choices")}, "usage": usage}


def whole(server: RunningServer, which: str) -> dict[str, Any]:
    path, body = WHOLE[which]
    return without_time(server.answer(path, body))


def joined(a: Any, b: Any) -> Any:
    """The log-probabilities of two pieces of a text as those of one."""
    if a is None or b is None:
        return a if b is None else b
    return {key: a[key] if b[key] is None else (a[key] or []) + b[key] for key in a}


def streamed(server: RunningServer, which: str) -> dict[str, Any]:
    """The chunks of a stream gathered into the answer that they are pieces of."""
    path, body = WHOLE[which]
    choices: dict[int, dict[str, Any]] = {}
    last: dict[str, Any] = {}
    for chunk in server.events(path, {**body, "stream_options": {"include_usage": True}}):
        last = chunk
        for piece in chunk["choices"]:
            choice = choices.setdefault(piece["index"], {"text": "", "logprobs": None, "finish_reason": None})
            choice["text"] += piece["text"] if path == COMPLETIONS else piece["delta"].get("content") or ""
            choice["logprobs"] = joined(choice["logprobs"], piece.get("logprobs"))
            choice["finish_reason"] = choice["finish_reason"] or piece["finish_reason"]
    return {"choices": choices, "usage": without_time(last)["usage"]}


def as_streamed(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer in the form of ``streamed``."""
    choices = {}
    for choice in answer["choices"]:
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        kept = {key: choice[key] for key in ("logprobs", "finish_reason")}
        choices[choice["index"]] = {"text": text, **kept}
    return {"choices": choices, "usage": answer["usage"]}


@pytest.fixture(scope="module")
def alone(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every request, one after the other, on a server without a prefix cache."""
    log = tmp_path_factory.mktemp("alone") / "log"
    with running_server(model_folder, "--no-prefix-cache", log=log) as server:
        answers = {which: whole(server, which) for which in WHOLE}
        assert server.metrics().get("prefix_cache_hits_total", 0) == 0
    return answers


@each_request
def test_again_and_from_the_prefix_cache(server: RunningServer, alone: dict[str, Any], which: str) -> None:
    hits = server.metrics()["prefix_cache_hits_total"]
    for _ in range(2):
        assert whole(server, which) == alone[which]
    assert (server.metrics()["prefix_cache_hits_total"] > hits) == (which not in READ_WHOLE)


@pytest.mark.parametrize("which", REQUESTS)
def test_in_a_stream(server: RunningServer, alone: dict[str, Any], which: str) -> None:
    assert streamed(server, which) == as_streamed(alone[which])


def mixed_load(server: RunningServer, alone: dict[str, Any], rounds: int) -> None:
    """Sixteen at a time, all requests in random order, some in streams, among others that nobody compares."""
    choose = random.Random(0)
    asked = [which for which in WHOLE for _ in range(rounds)]
    choose.shuffle(asked)

    def noise(number: int) -> None:
        body = {"prompt": TEXT[number : number + 40 * (1 + number % 7)], "max_tokens": 50, "seed": number}
        if number % 3:
            server.answer(COMPLETIONS, body)
        else:
            # Goes away in the middle.
            events = server.events(COMPLETIONS, {**body, "max_tokens": 500, "ignore_eos": True})
            next(events)
            events.close()

    def one(given: tuple[int, str]) -> None:
        number, which = given
        noise(number)
        if number % 2 and which in REQUESTS:
            assert streamed(server, which) == as_streamed(alone[which]), which
        else:
            assert whole(server, which) == alone[which], which

    with ThreadPoolExecutor(16) as threads:
        for _ in threads.map(one, enumerate(asked)):
            pass


def test_among_fifteen_others(server: RunningServer, alone: dict[str, Any]) -> None:
    mixed_load(server, alone, rounds=4)
    server.wait_until_idle()


@pytest.fixture
def cramped(model_folder: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """Room for the keys and values of one longest text and little more."""
    with running_server(model_folder, "--kv-tokens", 1100, log=tmp_path / "log") as server:
        yield server


def test_put_aside_and_begun_anew(cramped: RunningServer, alone: dict[str, Any]) -> None:
    mixed_load(cramped, alone, rounds=3)
    assert cramped.metrics()["num_preemptions_total"] > 0
    cramped.wait_until_idle()
