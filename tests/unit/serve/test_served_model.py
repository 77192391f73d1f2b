"""The routes over a real engine: what a client reads is what the model says when it is asked in Python."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from served import Client

import gptwo
from gptwo.config import GPT2Config
from gptwo.infer.api import LanguageModel
from gptwo.serve.metrics import Metrics
from gptwo.serve.serving import Serving
from gptwo.serve.settings import ServeSettings
from gptwo.serve.writer import Writer
from gptwo.tokenizer import build_byte
from random_checkpoint import write_random_checkpoint
from tolerance import Tolerance

SUMS = Tolerance(atol=1e-5, why="the native head sums V = 257 exponentials in fp32, Python in float64")
# A model of random weights writes any bytes; texts of these can be compared as they are.
ASCII = dict.fromkeys(range(128, 256), -100.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("served")
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=64, vocab_size=257)
    write_random_checkpoint(folder, config, eot_id=256)
    build_byte().save(folder)
    return gptwo.load(folder, dtype="fp32")


def serve(model: LanguageModel, body: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        settings = ServeSettings(model_name="random")
        writer = Writer(model, slots=4, cache_tokens=None, queue=60)
        writer.start()
        serving = Serving(settings, Metrics("random"), model=model, writer=writer, ready=True)
        try:
            await asyncio.wait_for(body(Client(serving)), 120)
        finally:
            await writer.close(0)

    asyncio.run(main())


def test_scores_are_those_of_the_model(model: LanguageModel) -> None:
    prompts = [list(range(3, 3 + length)) for length in (2, 9, 33, 63)]

    async def body(client: Client) -> None:
        asked = {"prompt": prompts, "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
        choices = (await client.complete(**asked)).json["choices"]
        for prompt, choice in zip(prompts, choices, strict=True):
            found = choice["logprobs"]
            assert len(found["token_logprobs"]) == len(prompt) + 1
            SUMS.assert_close(found["token_logprobs"][1:-1], model.score(prompt))
            greedy = [
                logprob == max(top.values())
                for logprob, top in zip(found["token_logprobs"][1:], found["top_logprobs"][1:], strict=True)
            ]
            assert greedy[:-1] == (model.logits(prompt)[:-1].argmax(axis=1) == prompt[1:]).tolist()
            assert greedy[-1]

    serve(model, body)


def test_a_seed_gives_the_same_text_as_in_python_alone_or_in_company(model: LanguageModel) -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": "The sea", "max_tokens": 40, "seed": 11, "n": 3, "top_k": 50, "logit_bias": ASCII}
        expected = model.generate_many(
            "The sea", num=3, max_new_tokens=40, seed=11, top_k=50, logit_bias=ASCII
        )
        others = [client.complete(prompt="x" * length, max_tokens=20) for length in range(1, 40)]
        replies = await asyncio.gather(*others[:20], client.complete(**asked), *others[20:])
        assert {reply.status for reply in replies} == {200}
        texts = [choice["text"] for choice in replies[20].json["choices"]]
        assert texts == [text.text for text in expected]
        reply = await client.complete(**asked, stream=True)
        *chunks, _ = reply.events
        streamed = [
            "".join(c["text"] for k in chunks for c in k["choices"] if c["index"] == i) for i in range(3)
        ]
        assert streamed == texts

    serve(model, body)


def test_a_conversation_is_read_as_in_python(model: LanguageModel) -> None:
    async def body(client: Client) -> None:
        messages = [{"role": "user", "content": "Hi"}]
        ids = model.tokenizer.render_chat(messages)
        asked = {"temperature": 0, "logit_bias": ASCII}
        reply = await client.chat(messages=messages, max_tokens=20, **asked)
        answer = model.generate(ids, max_new_tokens=20, **asked)
        assert reply.json["choices"][0]["message"]["content"] == answer.text
        assert reply.json["usage"]["prompt_tokens"] == len(ids)

    serve(model, body)


def test_a_prompt_that_came_before_is_counted_as_cached(model: LanguageModel) -> None:
    async def body(client: Client) -> None:
        asked = {"prompt": list(range(50)), "max_tokens": 2, "temperature": 0, "logprobs": 3}
        first, second = (await client.complete(**asked)).json, (await client.complete(**asked)).json
        assert first["choices"] == second["choices"]
        cached = [reply["usage"]["prompt_tokens_details"]["cached_tokens"] for reply in (first, second)]
        assert cached == [0, 32]

    serve(model, body)
