"""POST /tokenize and /detokenize, GET /tokenizer_info."""

from __future__ import annotations

from typing import Any

import pytest
from served import EOT, Client, serve

from gptwo.serve.schemas.tokens import DetokenizeReply, TokenizeReply, TokenizerInfo


def test_text_to_ids_and_back() -> None:
    async def body(client: Client) -> None:
        reply = await client.post("/tokenize", {"prompt": "hé", "model": "script"})
        TokenizeReply.model_validate_json(reply.body, strict=True)
        assert reply.json == {
            "count": 3,
            "max_model_len": 1000,
            "token_strs": None,
            "tokens": [104, 0xC3, 0xA9],
        }
        back = await client.post("/detokenize", {"tokens": reply.json["tokens"]})
        DetokenizeReply.model_validate_json(back.body, strict=True)
        assert back.json == {"prompt": "hé"}

    serve(body)


def test_a_text_of_many_parts_is_whole() -> None:
    async def body(client: Client) -> None:
        for count in (0, 1, 4095, 4096, 4097, 9000):
            reply = await client.post("/tokenize", {"prompt": "x" * count, "return_token_strs": True})
            assert reply.json["tokens"] == [120] * count
            assert reply.json["token_strs"] == ["x"] * count
            assert reply.json["count"] == count

    serve(body)


def test_special_tokens_are_read_unless_they_are_to_be_text() -> None:
    async def body(client: Client) -> None:
        # lm-evaluation-harness finds the id of <|endoftext|> so.
        reply = await client.post("/tokenize", {"prompt": "<|endoftext|>", "add_special_tokens": False})
        assert reply.json["tokens"] == [EOT]
        reply = await client.post("/tokenize", {"prompt": "<|endoftext|>", "parse_special": False})
        assert reply.json["count"] == 13

    serve(body)


def test_bytes_that_are_no_text_are_decoded_as_elsewhere() -> None:
    async def body(client: Client) -> None:
        for tokens in ([0xE2, 0x82], [0xE2, 0x82, 0xAC, EOT], [0xFF, 65], []):
            reply = await client.post("/detokenize", {"tokens": tokens})
            assert reply.json["prompt"] == client.serving.tokenizer.decode(tokens)

    serve(body)


def test_a_conversation_to_ids() -> None:
    async def body(client: Client) -> None:
        asked = {"messages": [{"role": "user", "content": "Hi"}]}
        tokens = (await client.post("/tokenize", asked)).json["tokens"]
        assert bytes(token for token in tokens if token != EOT) == b"User:\nHiAssistant:\n"
        tokens = (await client.post("/tokenize", {**asked, "add_generation_prompt": False})).json["tokens"]
        assert tokens[-1] == EOT

    serve(body)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}),
        ("/tokenize", {"prompt": ["x"]}),
        ("/tokenize", {"prompt": "x" * ((1 << 18) + 1)}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": [257]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": "x"}),
        ("/detokenize", {"tokens": [2**70]}),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(path: str, asked: dict[str, Any]) -> None:
    async def body(client: Client) -> None:
        reply = await client.post(path, asked)
        assert reply.status == 400
        assert reply.error["message"]

    serve(body)


def test_what_the_tokenizer_is() -> None:
    async def body(client: Client) -> None:
        reply = await client.get("/tokenizer_info")
        TokenizerInfo.model_validate_json(reply.body, strict=True)
        assert reply.json["eos_token"] == "<|endoftext|>"
        assert (reply.json["kind"], reply.json["vocab_size"], reply.json["model_max_length"]) == (
            "byte",
            257,
            1000,
        )
        assert "Assistant" in reply.json["chat_template"]

    serve(body)
