"""POST /v1/completions over a script: every field does what it says, whole and in a stream."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from asgi_client import Reply
from served import EOT, Client, says, serve

from gptwo.serve.schemas.completions import Completion
from gptwo.tokenizer import train_bpe


def whole(reply: Reply) -> dict[str, Any]:
    """The JSON of a reply that is as the schema says."""
    assert reply.status == 200, reply.body
    Completion.model_validate_json(reply.body, strict=True)
    return reply.json


def streamed(reply: Reply) -> list[dict[str, Any]]:
    """The chunks of a stream that came to its end."""
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, done = reply.events
    assert done == "[DONE]"
    for chunk in chunks:
        Completion.model_validate(chunk, strict=True)
    return chunks


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    return "".join(c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == index)


def test_a_text_with_its_counts() -> None:
    async def body(client: Client) -> None:
        reply = whole(await client.complete(prompt="Q|", max_tokens=30, model="script", user="somebody"))
        assert reply["model"] == "script"
        assert reply["object"] == "text_completion"
        assert reply["id"].startswith("cmpl-")
        (choice,) = reply["choices"]
        assert choice == {"index": 0, "text": "the answer", "logprobs": None, "finish_reason": "stop"}
        assert reply["usage"] == {
            "prompt_tokens": 2,
            "completion_tokens": 11,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    serve(body)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("Q|", ["the answer"]),
        (["Q|", "R|"], ["the answer", "the answer"]),
        ([81, 124], ["the answer"]),
        ([[81, 124], [124]], ["the answer", "the answer"]),
        ("", ["|the answer"]),
        (None, ["|the answer"]),
    ],
)
def test_every_form_of_a_prompt(prompt: Any, texts: list[str]) -> None:
    async def body(client: Client) -> None:
        reply = whole(await client.complete(prompt=prompt))
        assert [choice["text"] for choice in reply["choices"]] == texts
        assert [choice["index"] for choice in reply["choices"]] == list(range(len(texts)))

    serve(body)


def test_a_prompt_that_is_left_out_begins_at_the_end_of_a_text() -> None:
    async def body(client: Client) -> None:
        reply = whole(await client.post("/v1/completions", {"echo": True, "max_tokens": 1}))
        assert reply["choices"][0]["text"] == "<|endoftext|>|"
        assert reply["usage"]["prompt_tokens"] == 1

    serve(body)


def test_sixteen_tokens_where_no_number_is_asked_for() -> None:
    async def body(client: Client) -> None:
        reply = whole(await client.complete(prompt="Q|"))
        assert reply["choices"][0]["text"] == "x" * 16
        assert reply["choices"][0]["finish_reason"] == "length"

    serve(body, says("x" * 50))


def test_stop_strings_are_cut_and_so_are_those_in_a_stream() -> None:
    async def body(client: Client) -> None:
        for stop in ("swe", ["never", "swe"]):
            (choice,) = whole(await client.complete(prompt="Q|", stop=stop))["choices"]
            assert (choice["text"], choice["finish_reason"]) == ("the an", "stop")
            assert text_of(streamed(await client.complete(prompt="Q|", stop=stop, stream=True))) == "the an"

    serve(body)


def test_choices_of_several_prompts_are_numbered_prompt_by_prompt() -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": ["a", "b"], "n": 2, "max_tokens": 2, "echo": True}
        reply = whole(await client.complete(**asked))
        found = [(choice["index"], choice["text"][0]) for choice in reply["choices"]]
        assert found == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
        # A prompt counts once, however many texts follow it.
        assert (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]) == (2, 8)
        chunks = streamed(await client.complete(**asked, stream=True))
        assert [text_of(chunks, index)[0] for index in range(4)] == ["a", "a", "b", "b"]

    serve(body)


def test_the_best_of_several_by_mean_log_probability() -> None:
    async def body(client: Client) -> None:
        # At this temperature the script is followed about as often as not.
        asked = {"prompt": "Q|", "max_tokens": 1, "temperature": 12.0, "seed": 5, "logprobs": 0}
        every = whole(await client.complete(**asked, n=8))["choices"]
        logprobs = [choice["logprobs"]["token_logprobs"][0] for choice in every]
        assert len(set(logprobs)) > 1
        best = whole(await client.complete(**asked, n=2, best_of=8))
        found = [choice["logprobs"]["token_logprobs"][0] for choice in best["choices"]]
        assert found == sorted(logprobs, reverse=True)[:2]
        assert [choice["index"] for choice in best["choices"]] == [0, 1]
        assert best["usage"]["completion_tokens"] == 8

    serve(body)


def test_choice_i_draws_with_seed_plus_i() -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": "Q|", "max_tokens": 8, "temperature": 30.0, "logprobs": 0}
        both = whole(await client.complete(**asked, n=2, seed=7))["choices"]
        for shift, choice in enumerate(both):
            (alone,) = whole(await client.complete(**asked, seed=7 + shift))["choices"]
            assert alone["logprobs"] == choice["logprobs"]
        assert both[0]["logprobs"] != both[1]["logprobs"]

    serve(body)


def test_log_probabilities_of_an_echoed_prompt_are_what_an_evaluation_reads() -> None:
    async def body(client: Client) -> None:
        for prompt, first in (([81, 124, 116], "Q"), ("Q|t", "Q")):
            asked = {"prompt": prompt, "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
            (choice,) = whole(await client.complete(**asked))["choices"]
            found = choice["logprobs"]
            assert found["tokens"] == [first, "|", "t", "h"]
            assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
            # lm-evaluation-harness: greedy when a token's log-probability is the largest that was reported.
            greedy = [
                logprob == max(top.values())
                for logprob, top in zip(found["token_logprobs"][1:], found["top_logprobs"][1:], strict=True)
            ]
            assert greedy == [True, True, True]
            assert choice["text"] == "Q|th"
            assert found["text_offset"] == [0, 1, 2, 3]

    serve(body)


def test_a_token_that_is_not_the_best_is_reported_beside_it() -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": "Q|x", "max_tokens": 1, "logprobs": 1, "echo": True}
        found = whole(await client.complete(**asked))["choices"][0]["logprobs"]
        assert list(found["top_logprobs"][2]) == ["t", "x"]
        assert found["token_logprobs"][2] == found["top_logprobs"][2]["x"] < found["top_logprobs"][2]["t"]

    serve(body)


def test_scores_of_a_prompt_alone() -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": ["Q|t", "R"], "max_tokens": 0, "logprobs": 2, "echo": True}
        reply = whole(await client.complete(**asked))
        assert [choice["text"] for choice in reply["choices"]] == ["Q|t", "R"]
        assert [choice["logprobs"]["tokens"] for choice in reply["choices"]] == [["Q", "|", "t"], ["R"]]
        assert {choice["finish_reason"] for choice in reply["choices"]} == {"length"}
        assert reply["usage"]["completion_tokens"] == 0
        chunks = streamed(await client.complete(**asked, stream=True))
        assert (text_of(chunks), text_of(chunks, 1)) == ("Q|t", "R")

    serve(body, context=3)


def test_the_end_of_a_text_has_a_log_probability_too() -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": "Q|", "max_tokens": 9, "logprobs": 0}
        (choice,) = whole(await client.complete(**asked))["choices"]
        assert choice["text"] == "hi"
        assert choice["logprobs"]["tokens"] == ["h", "i", "<|endoftext|>"]
        assert [list(top) for top in choice["logprobs"]["top_logprobs"]] == [["h"], ["i"], ["<|endoftext|>"]]

    serve(body, says("hi"))


def test_the_ids_of_the_tokens_written_are_answered_when_asked_for() -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": "Q|", "max_tokens": 9, "return_token_ids": True, "logprobs": 0, "echo": True}
        (choice,) = whole(await client.complete(**asked))["choices"]
        assert choice["token_ids"] == [*b"hi", EOT]
        chunks = streamed(await client.complete(**asked, stream=True))
        assert [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]] == choice[
            "token_ids"
        ]
        (without,) = whole(await client.complete(prompt="Q|", max_tokens=9))["choices"]
        assert "token_ids" not in without

    serve(body, says("hi"))


def test_the_pieces_of_a_stream_are_the_whole() -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": "Q|", "max_tokens": 40, "logprobs": 2, "echo": True}
        (choice,) = whole(await client.complete(**asked))["choices"]
        chunks = streamed(await client.complete(**asked, stream=True, stream_options={"include_usage": True}))
        *pieces, last = chunks
        assert text_of(pieces) == choice["text"]
        for name, values in choice["logprobs"].items():
            parts = [piece["choices"][0]["logprobs"] for piece in pieces]
            assert [value for part in parts if part for value in part[name]] == values
        reasons = [piece["choices"][0]["finish_reason"] for piece in pieces]
        assert reasons == [None] * (len(pieces) - 1) + ["stop"]
        assert all(piece["usage"] is None for piece in pieces)
        assert last["choices"] == []
        assert last["usage"] == {
            "prompt_tokens": 2,
            "completion_tokens": 16,
            "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    serve(body, says("né à Hà 🌊"))


@pytest.mark.parametrize("text", ["é", "Hà Nội", "🌊🌊", "👩‍👩‍👧‍👦", "\u2028\u2029\x85", "a\r\n\x00b", '"\\'])
def test_no_event_has_half_a_character_or_ends_early(text: str) -> None:
    async def body(client: Client) -> None:
        reply = await client.complete(prompt="Q|", max_tokens=60, stream=True)
        chunks = streamed(reply)
        assert text_of(chunks) == text
        assert all("\ufffd" not in chunk["choices"][0]["text"] for chunk in chunks)
        # Also for clients that take any of Unicode's line ends for one.
        lines = [line for line in reply.body.decode().splitlines() if line]
        assert all(line.startswith("data: ") for line in lines)

    serve(body, says(text))


def test_one_finish_for_each_choice() -> None:
    async def body(client: Client) -> None:
        chunks = streamed(await client.complete(prompt=["Q|", "R|"], n=2, stream=True))
        ends = [c["index"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
        assert sorted(ends) == [0, 1, 2, 3]
        assert all("usage" not in chunk for chunk in chunks)

    serve(body)


def test_tokens_that_are_no_text_by_themselves_have_names_of_bytes() -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": "Q|", "logprobs": 0, "max_tokens": 9}
        (choice,) = whole(await client.complete(**asked))["choices"]
        assert choice["logprobs"]["tokens"] == [
            "a",
            "bytes:\\xe2",
            "bytes:\\x82",
            "bytes:\\xac",
            "b",
            "<|endoftext|>",
        ]
        # The euro sign begins where its first byte does, and is there with its last.
        assert choice["logprobs"]["text_offset"] == [0, 1, 1, 1, 2, 3]

    serve(body, says("a€b"))


def test_an_end_is_text_in_a_prompt_alone() -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": [EOT], "max_tokens": 3, "ignore_eos": True, "logprobs": 0, "echo": True}
        (choice,) = whole(await client.complete(**asked))["choices"]
        assert choice["text"] == "<|endoftext|>ab"
        assert choice["logprobs"]["tokens"] == ["<|endoftext|>", "a", "<|endoftext|>", "b"]
        assert choice["logprobs"]["text_offset"] == [0, 13, 14, 14]

    serve(body, lambda tokens: [ord("a"), EOT, ord("b")][len(tokens) - 1])


def test_extensions_reach_the_sampling() -> None:
    async def body(client: Client) -> None:
        async def text(**asked: Any) -> str:
            reply = whole(await client.complete(prompt="Q|", **asked))
            return str(reply["choices"][0]["text"])

        assert await text(max_tokens=5) == "hi"
        assert await text(max_tokens=5, ignore_eos=True) == "hi"
        assert await text(max_tokens=1, temperature=0, logit_bias={"122": 100}) == "z"
        assert await text(max_tokens=1, temperature=50, top_k=1) == "h"
        assert await text(max_tokens=1, temperature=50, top_p=0) == "h"
        assert await text(max_tokens=1, temperature=50, min_p=1) == "h"
        assert await text(max_tokens=1, temperature=50, top_k=-1, seed=1) != "h"
        assert await text(max_tokens=2, temperature=0, repetition_penalty=100, logit_bias={"104": 0}) == "hi"

    serve(body, says("hi"))


def test_ignored_ends_are_counted_as_tokens() -> None:
    async def body(client: Client) -> None:
        reply = whole(await client.complete(prompt="Q|", max_tokens=7, ignore_eos=True))
        assert reply["choices"][0]["finish_reason"] == "length"
        assert reply["usage"]["completion_tokens"] == 7

    serve(body, says("hi"))


def test_a_text_keeps_to_the_form_that_is_asked_for() -> None:
    async def body(client: Client) -> None:
        schema = {"type": "object", "properties": {"a": {"const": None}}, "required": ["a"]}
        schema["additionalProperties"] = False
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        # Greedy, it writes as much space as it may where the script's token is not allowed: hence so many tokens.
        asked = {"prompt": "Q|", "temperature": 0, "max_tokens": 100}
        (choice,) = whole(await client.complete(**asked, response_format=wanted))["choices"]
        # The script would have written 1, and the schema has null.
        assert json.loads(choice["text"]) == {"a": None}
        plain = whole(await client.complete(prompt="Q|", response_format={"type": "text"}))
        assert plain["choices"][0]["text"] == '{"a":1}'
        wanted["json_schema"]["schema"] = {"type": "number of things"}
        reply = await client.complete(response_format=wanted)
        assert (reply.status, reply.error["param"]) == (400, "response_format")

    serve(body, says('{"a":1}'))


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"prompt": "x" * 1000}, "max_tokens", "context_length_exceeded"),
        ({"prompt": "x" * 1001}, "prompt", "context_length_exceeded"),
        ({"prompt": "x" * 1_000_000}, "prompt", "context_length_exceeded"),
        ({"prompt": [1] * 1001}, "prompt", "context_length_exceeded"),
        ({"prompt": "x", "max_tokens": 1000}, "max_tokens", "context_length_exceeded"),
        ({"prompt": ["x"] * 200, "max_tokens": 900}, "max_tokens", "request_too_large"),
        ({"prompt": [257]}, "prompt", "invalid_value"),
        ({"logit_bias": {"257": 1}}, "logit_bias", "invalid_value"),
        ({"n": 17}, "n", "invalid_value"),
        ({"best_of": 17}, "best_of", "invalid_value"),
        ({"n": 3, "best_of": 2}, "best_of", "invalid_value"),
        ({"n": 1, "best_of": 2, "stream": True}, "best_of", "invalid_value"),
        ({"suffix": "the end"}, "suffix", "invalid_value"),
        ({"seed": 2**63 - 1, "n": 2}, None, "invalid_value"),
        ({"prompt": ["x"] * 13}, None, "invalid_value"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(asked: dict[str, Any], param: str | None, code: str) -> None:
    async def body(client: Client) -> None:
        reply = await client.complete(**asked)
        assert reply.status == 400
        assert (reply.error["param"], reply.error["code"]) == (param, code)
        assert reply.error["type"] == "invalid_request_error"

    serve(body)


def test_a_prompt_that_is_too_long_is_refused_with_the_numbers() -> None:
    async def body(client: Client) -> None:
        reply = await client.complete(prompt="x" * 990, max_tokens=20)
        for number in ("990", "20", "1,010", "1,000"):
            assert number in reply.error["message"]

    serve(body)


def test_an_unknown_model_is_not_found_and_never_a_path() -> None:
    async def body(client: Client) -> None:
        for model in ("gpt-4", "../script", "/etc/passwd", ""):
            reply = await client.complete(model=model)
            assert (reply.status, reply.error["code"], reply.error["param"]) == (
                404,
                "model_not_found",
                "model",
            )

    serve(body)


def test_an_empty_prompt_needs_a_token_to_begin_from() -> None:
    async def body(client: Client) -> None:
        reply = await client.complete()
        assert reply.status == 400
        assert "empty" in reply.error["message"]

    tokenizer = train_bpe(iter(["ab"]), 257)
    tokenizer.eot_id = None
    serve(body, tokenizer=tokenizer)


class Slow:
    """An engine's script whose every token waits for the test."""

    def __init__(self) -> None:
        self.turn = threading.Semaphore(0)
        self.asked = threading.Event()

    def __call__(self, tokens: list[int]) -> int:
        self.asked.set()
        assert self.turn.acquire(timeout=30)
        return ord("a")


async def until_idle(client: Client) -> None:
    while client.serving.open_writer.stats.running or client.serving.open_writer.stats.waiting:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_a_client_that_goes_frees_its_place(stream: bytes) -> None:
    slow = Slow()

    async def body(client: Client) -> None:
        connection, task = client.connect(
            "/v1/completions", b'{"prompt": "x", "max_tokens": 900, "stream": ' + stream + b"}"
        )
        await asyncio.to_thread(slow.asked.wait)
        connection.close()
        await task
        # One pass was under way, and is the last.
        slow.turn.release(2)
        await until_idle(client)
        assert b"[DONE]" not in b"".join(message.get("body", b"") for message in connection.sent)

    try:
        serve(body, slow)
    finally:
        slow.turn.release(1000)


def test_silence_is_filled_with_comments() -> None:
    slow = Slow()

    async def body(client: Client) -> None:
        connection, task = client.connect("/v1/completions", b'{"max_tokens": 1, "stream": true}')
        await connection.has_sent(b": ping\n\n")
        slow.turn.release(1)
        assert text_of(streamed(await task)) == "a"

    serve(body, slow, ping_s=0.001)


def test_an_error_in_mid_stream_is_an_error_frame() -> None:
    def follow(tokens: list[int]) -> int:
        if len(tokens) > 3:
            raise RuntimeError("the insides of the server")
        return ord("a")

    async def body(client: Client) -> None:
        reply = await client.complete(prompt="x", stream=True, n=2)
        assert reply.status == 200
        *chunks, last = reply.events
        assert text_of(chunks) == text_of(chunks, 1) == "aaa"
        assert last["error"]["type"] == "server_error"
        assert "insides" not in reply.body.decode()
        whole_reply = await client.complete(prompt="x")
        assert whole_reply.status == 500
        assert "insides" not in whole_reply.body.decode()
        # The next request is served.
        assert (await client.complete(prompt="x", max_tokens=2)).json["choices"][0]["text"] == "aa"

    serve(body, follow)


def test_a_full_queue_is_429_and_says_when_to_come_back() -> None:
    slow = Slow()

    async def body(client: Client) -> None:
        _, first = client.connect("/v1/completions", b'{"n": 2, "max_tokens": 1}')
        await asyncio.to_thread(slow.asked.wait)
        reply = await client.complete()
        assert (reply.status, reply.error["type"]) == (429, "rate_limit_error")
        assert int(reply.headers["retry-after"]) > 0
        # Before anything is done for it: this prompt is too long, which encoding it would show.
        assert (await client.complete(prompt="x" * 2000)).status == 429
        assert (await client.chat(messages=[{"role": "user", "content": "x" * 2000}])).status == 429
        slow.turn.release(2)
        assert (await first).status == 200

    serve(body, slow, slots=1, queue=1)


def test_a_closing_server_is_503() -> None:
    async def body(client: Client) -> None:
        await client.serving.open_writer.close(0)
        reply = await client.complete()
        assert (reply.status, reply.error["code"]) == (503, "closing")
        assert int(reply.headers["retry-after"]) > 0

    serve(body)


def test_the_counts_come_into_the_requests_log() -> None:
    async def body(client: Client) -> None:
        for stream in (True, False):
            connection, task = client.connect(
                "/v1/completions",
                b'{"prompt": "Q|", "n": 2, "stream": ' + str(stream).lower().encode() + b"}",
            )
            await task
            facts = connection.state["log"]
            assert facts["prompt"] == "Q|"
            assert facts["prompt_tokens"] == 2
            assert facts["completion_tokens"] == 22
            assert facts["finish_reasons"] == "stop,stop"

    serve(body)
