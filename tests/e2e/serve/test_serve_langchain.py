"""``langchain-openai``, unchanged."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from running_server import RunningServer

langchain = pytest.importorskip("langchain_openai", reason="pip install 'gptwo[dev]'")

PROMPT = "The sea keeps"
QUESTION = "What does the sea bring?"
SETTINGS: dict[str, Any] = {"seed": 1, "max_tokens": 20, "temperature": 1.1}


@pytest.fixture(scope="module")
def at(server: RunningServer) -> dict[str, Any]:
    where = {"base_url": f"{server.url}/v1", "api_key": "unused", "max_retries": 0}
    return {"model": server.model, **where, **SETTINGS}


def test_chat(server: RunningServer, at: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    answer = server.answer("/v1/chat/completions", {"messages": messages, **SETTINGS})
    expected = answer["choices"][0]["message"]["content"]
    chat = langchain.ChatOpenAI(**at)
    found = chat.invoke(QUESTION)
    assert found.content == expected
    assert found.usage_metadata["output_tokens"] == answer["usage"]["completion_tokens"]
    assert "".join(str(piece.content) for piece in chat.stream(QUESTION)) == expected

    async def both() -> list[Any]:
        return list(await asyncio.gather(chat.ainvoke(QUESTION), chat.ainvoke(QUESTION)))

    assert [each.content for each in asyncio.run(both())] == [expected] * 2


def test_completions(server: RunningServer, at: dict[str, Any]) -> None:
    expected = server.answer("/v1/completions", {"prompt": PROMPT, **SETTINGS})["choices"][0]["text"]
    model = langchain.OpenAI(**at)
    assert model.invoke(PROMPT) == expected
    assert "".join(model.stream(PROMPT)) == expected
