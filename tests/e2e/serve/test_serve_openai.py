"""The official ``openai`` client of Python, unchanged: every field of it that we take, streams, and its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from running_server import TEXT, RunningServer, running_server

openai = pytest.importorskip("openai", reason="pip install 'gptwo[dev]'")
pydantic = pytest.importorskip("pydantic", reason="pip install 'gptwo[dev]'")

PROMPT = "The sea keeps"
MESSAGES: Any = [{"role": "user", "content": "What does the sea bring?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def name(client: Any) -> str:
    return str(client.models.list().data[0].id)


def ids(server: RunningServer, text: str) -> list[int]:
    return list(server.answer("/tokenize", {"prompt": text})["tokens"])


def test_models(client: Any, name: str, model_folder: Path) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object) == (model_folder.name, "model")
    assert client.models.retrieve(name) == model
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("no-such")
    assert raised.value.code == "model_not_found"


# --- completions --------------------------------------------------------------------------------------------------


def test_every_form_of_a_prompt(client: Any, name: str, server: RunningServer) -> None:
    alone = client.completions.create(model=name, prompt=PROMPT, **GREEDY)
    (choice,) = alone.choices
    assert choice.finish_reason in {"stop", "length"}
    assert alone.usage.prompt_tokens == len(ids(server, PROMPT))
    assert alone.usage.total_tokens == alone.usage.prompt_tokens + alone.usage.completion_tokens
    other = client.completions.create(model=name, prompt="rain", **GREEDY).choices[0].text
    for many in ([PROMPT, "rain"], [ids(server, PROMPT), ids(server, "rain")]):
        found = client.completions.create(model=name, prompt=many, **GREEDY)
        assert [(c.index, c.text) for c in found.choices] == [(0, choice.text), (1, other)]
    of_ids = client.completions.create(model=name, prompt=ids(server, PROMPT), **GREEDY)
    assert of_ids.choices[0].text == choice.text
    # Left out, it begins where a text begins.
    left_out = server.answer("/v1/completions", {"model": name, **GREEDY})
    begun = client.completions.create(model=name, prompt=ids(server, "<|endoftext|>"), **GREEDY)
    assert left_out["choices"][0]["text"] == begun.choices[0].text


def test_max_tokens_is_16_unless_said(client: Any, name: str) -> None:
    found = client.completions.create(model=name, prompt=PROMPT, extra_body={"ignore_eos": True})
    assert found.usage.completion_tokens == 16
    assert found.choices[0].finish_reason == "length"


def test_seeds(client: Any, name: str) -> None:
    def texts(seed: int, n: int = 1) -> list[str]:
        found = client.completions.create(
            model=name, prompt=PROMPT, seed=seed, n=n, temperature=1.5, max_tokens=20
        )
        return [choice.text for choice in found.choices]

    three = texts(7, n=3)
    assert len(set(three)) == 3
    assert three == [*texts(7), *texts(8), *texts(9)]
    unseeded = {
        client.completions.create(model=name, prompt=PROMPT, temperature=1.5).choices[0].text
        for _ in range(4)
    }
    assert len(unseeded) > 1


def test_logprobs(client: Any, name: str) -> None:
    found = client.completions.create(model=name, prompt=PROMPT, logprobs=3, **GREEDY)
    logprobs = found.choices[0].logprobs
    count = found.usage.completion_tokens
    assert {len(logprobs.tokens), len(logprobs.token_logprobs), len(logprobs.top_logprobs)} == {count}
    assert len(logprobs.text_offset) == count
    for own, top in zip(logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert len(top) >= 3
        assert own == max(top.values()) < 0


def test_echo_with_logprobs(client: Any, name: str, server: RunningServer) -> None:
    found = client.completions.create(
        model=name, prompt=TEXT[:100], echo=True, logprobs=1, max_tokens=1, temperature=0
    )
    (choice,) = found.choices
    assert choice.text.startswith(TEXT[:100])
    count = len(ids(server, TEXT[:100]))
    assert len(choice.logprobs.token_logprobs) == count + 1
    assert choice.logprobs.token_logprobs[0] is None
    assert all(isinstance(value, float) for value in choice.logprobs.token_logprobs[1:])


def test_stop_strings_are_cut(client: Any, name: str) -> None:
    whole = client.completions.create(
        model=name, prompt=PROMPT, temperature=0, max_tokens=40, extra_body={"ignore_eos": True}
    )
    text = whole.choices[0].text
    # Two characters that are whole: a random model also writes halves.
    stop = next(text[n : n + 2] for n in range(3, len(text)) if text[n : n + 2].isascii())
    found = client.completions.create(model=name, prompt=PROMPT, temperature=0, max_tokens=40, stop=stop)
    assert found.choices[0].text == text[: text.index(stop)]
    assert found.choices[0].finish_reason == "stop"


def test_what_moves_the_draw(client: Any, name: str, server: RunningServer) -> None:
    (token,) = ids(server, "e")
    always = client.completions.create(
        model=name, prompt=PROMPT, max_tokens=5, temperature=1, logit_bias={str(token): 100}
    )
    assert always.choices[0].text == "eeeee"
    plain = client.completions.create(model=name, prompt=PROMPT, temperature=0, max_tokens=60)
    for settings in (
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"extra_body": {"repetition_penalty": 3.0}},
    ):
        found = client.completions.create(model=name, prompt=PROMPT, temperature=0, max_tokens=60, **settings)
        assert found.choices[0].text != plain.choices[0].text, settings
    for settings in ({"top_p": 1e-9}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}):
        found = client.completions.create(model=name, prompt=PROMPT, max_tokens=60, **settings)
        assert found.choices[0].text == plain.choices[0].text, settings


def test_best_of(client: Any, name: str) -> None:
    settings: dict[str, Any] = {
        "prompt": PROMPT,
        "seed": 3,
        "temperature": 1.5,
        "max_tokens": 8,
        "logprobs": 0,
    }
    settings["extra_body"] = {"ignore_eos": True}
    four = client.completions.create(model=name, n=4, **settings).choices
    best = client.completions.create(model=name, n=2, best_of=4, **settings)

    def mean(choice: Any) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    expected = sorted(four, key=mean, reverse=True)[:2]
    assert [choice.text for choice in best.choices] == [choice.text for choice in expected]
    assert best.usage.completion_tokens == 4 * 8


# --- streams ------------------------------------------------------------------------------------------------------


def test_a_stream_of_completions(client: Any, name: str) -> None:
    settings: dict[str, Any] = {"prompt": [PROMPT, "rain"], "n": 2, "seed": 1, "max_tokens": 30}
    whole = client.completions.create(model=name, **settings)
    texts = ["", "", "", ""]
    reasons: list[Any] = [None] * 4
    usage = []
    with client.completions.create(
        model=name, stream=True, stream_options={"include_usage": True}, **settings
    ) as stream:
        for chunk in stream:
            usage.append(chunk.usage)
            for choice in chunk.choices:
                assert reasons[choice.index] is None, "something after the finish"
                texts[choice.index] += choice.text
                reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage[:-1] == [None] * (len(usage) - 1)
    assert usage[-1].completion_tokens == whole.usage.completion_tokens


def test_a_stream_of_chat(client: Any, name: str) -> None:
    settings: dict[str, Any] = {"messages": MESSAGES, "seed": 1, "max_tokens": 30}
    whole = client.chat.completions.create(model=name, **settings)
    with client.chat.completions.create(model=name, stream=True, **settings) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_clients_own_gathering_of_a_stream(client: Any, name: str) -> None:
    # It takes an answer that was cut off by its length for an error.
    settings: dict[str, Any] = {"messages": MESSAGES, "seed": 2, "stop": ["e", "a", "i"]}
    whole = client.chat.completions.create(model=name, **settings)
    with client.chat.completions.stream(model=name, **settings) as stream:
        gathered = stream.get_final_completion()
    assert gathered.choices[0].message.content == whole.choices[0].message.content


# --- chat ---------------------------------------------------------------------------------------------------------


def test_chat(client: Any, name: str) -> None:
    found = client.chat.completions.create(
        model=name,
        messages=[{"role": "system", "content": "Be brief."}, *MESSAGES],
        n=2,
        seed=4,
        max_completion_tokens=10,
        logprobs=True,
        top_logprobs=2,
    )
    assert [choice.message.role for choice in found.choices] == ["assistant"] * 2
    for choice in found.choices:
        assert 1 <= len(choice.logprobs.content) <= 10
        for token in choice.logprobs.content:
            assert bytes(token.bytes)
            assert len(token.top_logprobs) == 2
            assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob


def test_a_long_beginning_is_cached(client: Any, name: str) -> None:
    messages = [{"role": "system", "content": TEXT[:400]}, *MESSAGES]
    for _ in range(2):
        found = client.chat.completions.create(model=name, messages=messages, max_tokens=2)
    assert found.usage.prompt_tokens_details.cached_tokens > 0.8 * found.usage.prompt_tokens


class Weather(pydantic.BaseModel):  # type: ignore[name-defined, misc]
    model_config = pydantic.ConfigDict(extra="forbid")
    sky: Literal["rain", "sun"]
    wind: bool


def test_answers_of_a_schema(client: Any, name: str) -> None:
    pytest.importorskip("llguidance", reason="pip install 'gptwo[serve]'")
    found = client.chat.completions.parse(
        model=name, messages=MESSAGES, response_format=Weather, max_tokens=200, seed=1
    )
    assert isinstance(found.choices[0].message.parsed, Weather)


# --- asynchronous -------------------------------------------------------------------------------------------------


def test_the_asynchronous_client(server: RunningServer, client: Any, name: str) -> None:
    settings: dict[str, Any] = {"model": name, "temperature": 1.2, "max_tokens": 30}
    alone = [
        client.completions.create(prompt=PROMPT, seed=seed, **settings).choices[0].text for seed in range(8)
    ]

    async def one(side: Any, seed: int) -> str:
        if seed % 2:
            found = await side.completions.create(prompt=PROMPT, seed=seed, **settings)
            return str(found.choices[0].text)
        stream = await side.completions.create(prompt=PROMPT, seed=seed, stream=True, **settings)
        async with stream:
            return "".join([chunk.choices[0].text async for chunk in stream])

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as side:
            return list(await asyncio.gather(*(one(side, seed) for seed in range(8))))

    assert asyncio.run(all_at_once()) == alone


def test_a_client_that_goes_away_frees_its_place(server: RunningServer, client: Any, name: str) -> None:
    with client.completions.create(
        model=name, prompt=PROMPT, stream=True, max_tokens=1000, extra_body={"ignore_eos": True}
    ) as stream:
        next(iter(stream))
    server.wait_until_idle()


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"suffix": "the end"}, "suffix"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"presence_penalty": "much"}, "presence_penalty"),
        ({"prompt": {"text": "no"}}, "prompt"),
        ({"prompt": [[0, 999999]]}, "prompt"),
    ],
)
def test_a_mistake_is_named(client: Any, name: str, settings: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(**{"model": name, "prompt": PROMPT, **settings})
    error = raised.value
    assert error.status_code == 400
    assert error.type == "invalid_request_error"
    assert error.param is not None
    assert error.param.split(".")[0] == param
    assert error.request_id


def test_too_long_is_refused_with_the_numbers(client: Any, name: str, server: RunningServer) -> None:
    given = len(ids(server, TEXT[:600]))
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model=name, prompt=TEXT[:600], max_tokens=1024)
    assert raised.value.code == "context_length_exceeded"
    assert "1,024" in raised.value.message
    assert str(given) in raised.value.message


def test_an_unknown_model(client: Any) -> None:
    for ask in (
        lambda: client.completions.create(model="no-such", prompt=PROMPT),
        lambda: client.chat.completions.create(model="../../etc/passwd", messages=MESSAGES),
    ):
        with pytest.raises(openai.NotFoundError) as raised:
            ask()
        assert raised.value.code == "model_not_found"


def test_a_wrong_key_and_a_full_queue(model_folder: Path, tmp_path: Path) -> None:
    flags = ("--api-key", "right", "--slots", 1, "--queue", 1)
    with running_server(model_folder, *flags, log=tmp_path / "log", key="right") as server:
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="right", max_retries=0) as client:
            name = client.models.list().data[0].id
            long: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 1000, "stream": True}
            long["extra_body"] = {"ignore_eos": True}
            streams = [client.completions.create(model=name, **long) for _ in range(2)]
            with pytest.raises(openai.RateLimitError) as raised:
                client.completions.create(model=name, prompt=PROMPT)
            assert int(raised.value.response.headers["retry-after"]) >= 1
            for stream in streams:
                stream.close()
            # Its own retries come through once there is room.
            patient = client.with_options(max_retries=5)
            assert patient.completions.create(model=name, prompt=PROMPT).choices
