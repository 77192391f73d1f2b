"""POST /v1/chat/completions over a script: messages in, an answer out, whole and in a stream."""

from __future__ import annotations

from typing import Any

import pytest
from asgi_client import Reply
from served import Client, says, serve

from gptwo.serve.schemas.chat import ChatCompletion, ChatCompletionChunk

HELLO = [{"role": "user", "content": "Hello?"}]
answers = says("An answer.", after="\n")


def whole(reply: Reply) -> dict[str, Any]:
    """The JSON of a reply that is as the schema says."""
    assert reply.status == 200, reply.body
    ChatCompletion.model_validate_json(reply.body, strict=True)
    return reply.json


def streamed(reply: Reply) -> list[dict[str, Any]]:
    """The chunks of a stream that came to its end."""
    assert reply.status == 200, reply.body
    *chunks, done = reply.events
    assert done == "[DONE]"
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    return chunks


def test_an_answer_with_its_counts() -> None:
    async def body(client: Client) -> None:
        reply = whole(await client.chat(messages=HELLO, model="script"))
        assert reply["object"] == "chat.completion"
        (choice,) = reply["choices"]
        assert choice["message"] == {"role": "assistant", "content": "An answer."}
        assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
        # "User:\nHello?", the end, "Assistant:\n".
        assert reply["usage"]["prompt_tokens"] == 6 + 6 + 1 + 11
        assert reply["usage"]["completion_tokens"] == 11

    serve(body, answers)


def test_contents_may_come_in_parts() -> None:
    async def body(client: Client) -> None:
        parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo?"}]
        for role in ("system", "developer"):
            one = await client.chat(
                messages=[{"role": role, "content": "Be brief."}, {"role": "user", "content": parts}]
            )
            assert whole(one)["usage"]["prompt_tokens"] == 8 + 9 + 1 + 24

    serve(body, answers)


def test_the_answer_may_take_what_the_context_leaves() -> None:
    async def body(client: Client) -> None:
        reply = whole(await client.chat(messages=HELLO))
        assert reply["usage"]["total_tokens"] == 100
        assert reply["choices"][0]["finish_reason"] == "length"
        # And no more than a request may have, where several are asked for.
        reply = whole(await client.chat(messages=HELLO, n=3))
        assert reply["usage"]["completion_tokens"] + 3 * 24 <= 150

    serve(body, says("x" * 500, after="\n"), context=100, max_total_tokens=150)


def test_both_names_of_the_most_tokens() -> None:
    async def body(client: Client) -> None:
        for asked, count in (
            ({"max_tokens": 3}, 3),
            ({"max_completion_tokens": 2}, 2),
            ({"max_completion_tokens": 2, "max_tokens": 5}, 2),
        ):
            assert whole(await client.chat(messages=HELLO, **asked))["usage"]["completion_tokens"] == count

    serve(body, answers)


def test_deltas_begin_with_the_role_and_end_with_a_reason() -> None:
    async def body(client: Client) -> None:
        asked = {"messages": HELLO, "n": 2, "stream": True}
        chunks = streamed(await client.chat(**asked))
        for index in range(2):
            choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
            first, *middle, last = choices
            assert first["delta"] == {"role": "assistant", "content": ""}
            assert "".join(choice["delta"]["content"] for choice in middle) == "An answer."
            assert last["delta"] == {}
            assert [choice["finish_reason"] for choice in choices] == [None] * (len(middle) + 1) + ["stop"]
        assert all("usage" not in chunk for chunk in chunks)
        *_, last_chunk = streamed(await client.chat(**asked, stream_options={"include_usage": True}))
        assert last_chunk["choices"] == []
        assert last_chunk["usage"]["completion_tokens"] == 22

    serve(body, answers)


def test_log_probabilities_with_exact_bytes() -> None:
    async def body(client: Client) -> None:
        asked = {"messages": HELLO, "logprobs": True, "top_logprobs": 2}
        (choice,) = whole(await client.chat(**asked))["choices"]
        entries = choice["logprobs"]["content"]
        assert [entry["token"] for entry in entries] == ["a", "bytes:\\xc3", "bytes:\\xa9", "<|endoftext|>"]
        assert [entry["bytes"] for entry in entries[:3]] == [[97], [0xC3], [0xA9]]
        for entry in entries:
            best, second = entry["top_logprobs"]
            assert best == {name: entry[name] for name in ("token", "logprob", "bytes")}
            assert second["logprob"] < best["logprob"]
        chunks = streamed(await client.chat(**asked, stream=True))
        parts = [c["logprobs"]["content"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]]
        assert [entry for part in parts for entry in part] == entries

    serve(body, says("aé", after="\n"))


def test_top_log_probabilities_alone_are_not_asked_for() -> None:
    async def body(client: Client) -> None:
        (choice,) = whole(await client.chat(messages=HELLO, top_logprobs=2))["choices"]
        assert choice["logprobs"] is None

    serve(body, answers)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello?"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [*HELLO, {"role": "user"}]}, "messages[1].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages[0].content",
        ),
        ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools"),
        ({"messages": HELLO, "functions": [{}]}, "functions"),
        ({"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        ({"messages": HELLO, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"messages": HELLO, "modalities": ["text", "audio"]}, "modalities[1]"),
        ({"messages": HELLO, "audio": {"voice": "x"}}, "audio"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ({"messages": HELLO, "max_tokens": 990}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x" * 1000}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 1_000_000}]}, "messages"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(asked: dict[str, Any], param: str) -> None:
    async def body(client: Client) -> None:
        reply = await client.post("/v1/chat/completions", asked)
        assert (reply.status, reply.error["param"]) == (400, param)

    serve(body, answers)


def test_what_asks_for_nothing_is_accepted() -> None:
    async def body(client: Client) -> None:
        nothing = {
            "tools": [],
            "tool_choice": "none",
            "functions": None,
            "modalities": ["text"],
            "new_field": 1,
        }
        assert whole(await client.chat(messages=HELLO, **nothing))["choices"][0]["message"]["content"]

    serve(body, answers)
