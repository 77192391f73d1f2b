"""``gptwo.load`` and what it gives, on folders as transformers writes them."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config as TheirConfig
from transformers import GPT2LMHeadModel

import gptwo
from gptwo.base.errors import (
    CheckpointError,
    ConfigError,
    ContextLengthError,
    DeviceError,
    GptwoError,
    TokenizerError,
)
from gptwo.config import GPT2Config
from gptwo.infer.api import LanguageModel
from gptwo.tokenizer import build_byte, build_char
from random_checkpoint import write_random_checkpoint
from tolerance import FLOAT64, Tolerance

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, context=24, vocab_size=257)
BYTES = build_byte()


@pytest.fixture(scope="module")
def theirs() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        TheirConfig(
            n_layer=2,
            n_head=2,
            n_embd=16,
            n_positions=24,
            vocab_size=257,
            initializer_range=0.6,
            bos_token_id=256,
            eos_token_id=256,
        )
    ).eval()


@pytest.fixture(scope="module")
def theirs_fp64(theirs: GPT2LMHeadModel) -> GPT2LMHeadModel:
    return copy.deepcopy(theirs).double()


@pytest.fixture(scope="module")
def folder(theirs: GPT2LMHeadModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "theirs"
    theirs.save_pretrained(folder)
    BYTES.save(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return gptwo.load(folder, device="cpu", dtype="fp64")


@pytest.fixture(scope="module")
def without_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return gptwo.load(write_random_checkpoint(tmp_path_factory.mktemp("models") / "bare", CONFIG), "cpu")


# --- Loading ----------------------------------------------------------------------------------------------------------


def test_a_folder_of_transformers_gives_its_logits(folder: Path, theirs: GPT2LMHeadModel) -> None:
    model = gptwo.load(str(folder), "cpu")
    tokens = BYTES.encode("Xin chào")
    logits = model.logits(tokens)
    assert logits.dtype == np.float32
    near = Tolerance(atol=1e-4, rtol=1e-5, why="fp32 on both sides, logits near 10, sums in another order")
    near.assert_close(logits, theirs(torch.tensor([tokens])).logits[0])
    assert model.description.startswith("native on cpu in fp32 (")
    assert model.config.context == 24


@pytest.mark.parametrize(
    ("dtype", "runs_in"),
    [
        (None, "native on cpu in fp32 ("),
        ("fp32", "native on cpu in fp32 ("),
        ("bf16", "native on cpu in bf16 ("),
        ("int4", "native on cpu in int4 ("),
        ("fp16", "torch on cpu in float16; "),
        ("float64", "torch on cpu in float64; "),
        ("torch.bfloat16", "native on cpu in bf16 ("),
    ],
)
def test_dtypes_by_name(folder: Path, dtype: str | None, runs_in: str) -> None:
    model = gptwo.load(folder, device="cpu", dtype=dtype)
    assert model.description.startswith(runs_in)
    assert len(model.generate("ab", max_new_tokens=2, seed=0).tokens) == 2


def test_auto_says_what_it_chose(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="gptwo.infer.engines"):
        model = gptwo.load(folder)
    assert model.description.startswith("native on ")
    assert any(model.description in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"dtype": "int3"},
            ConfigError,
            r"dtype 'int3' is not possible on any engine; expected one of bf16, [^\n]+",
        ),
        ({"device": "tpu"}, DeviceError, r"device 'tpu' is unknown; .*"),
        (
            {"engine": "warp"},
            ConfigError,
            r"there is no engine 'warp'; expected auto or one of native, torch",
        ),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    folder: Path, settings: dict[str, str], error: type[GptwoError], message: str
) -> None:
    with pytest.raises(error, match=rf"^{message}$"):
        gptwo.load(folder, **settings)  # type: ignore[arg-type]


def test_no_such_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^there is no model [^\n]+$"):
        gptwo.load(tmp_path / "nothing")


# --- Writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["a", "Xin chào", "The cat"])
def test_greedy_writing_equals_transformers(
    model: LanguageModel, theirs_fp64: GPT2LMHeadModel, prompt: str
) -> None:
    ids = torch.tensor([BYTES.encode(prompt)])
    for penalty in (1.0, 1.3):
        expected = theirs_fp64.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=14,
            repetition_penalty=penalty,
            pad_token_id=0,
        )
        ours = model.generate(prompt, max_new_tokens=14, temperature=0, repetition_penalty=penalty)
        assert ours.tokens == expected[0, ids.shape[1] :].tolist()


def test_text_and_ids_are_the_same_prompt(model: LanguageModel) -> None:
    text = model.generate("hello", max_new_tokens=9, seed=4)
    ids = model.generate([*b"hello"], max_new_tokens=9, seed=4)
    array = model.generate(np.array([*b"hello"], dtype=np.uint16), max_new_tokens=9, seed=4)
    assert text == ids == array
    assert text.text == BYTES.decode(text.tokens)
    assert text.prompt_tokens == 5


def test_streamed_text_is_the_whole_text(model: LanguageModel) -> None:
    for seed in range(20):
        settings = {"max_new_tokens": 40, "seed": seed, "stop": ["e", "\ufffd\ufffd"], "slide": True}
        whole = model.generate("hello", **settings)  # type: ignore[arg-type]
        stream = model.stream("hello", **settings)  # type: ignore[arg-type]
        pieces = list(stream)
        assert "".join(pieces) == whole.text
        assert all(pieces)
        assert stream.generation == whole


def test_many_are_those_of_the_following_seeds(model: LanguageModel) -> None:
    many = model.generate_many("hello", num=3, max_new_tokens=9, seed=4)
    alone = [model.generate("hello", max_new_tokens=9, seed=seed) for seed in (4, 5, 6)]
    assert [g.tokens for g in many] == [g.tokens for g in alone]
    assert [g.seed for g in many] == [4, 5, 6]
    assert len({g.text for g in many}) == 3


def test_a_batch_is_its_prompts_alone_with_the_following_seeds(model: LanguageModel) -> None:
    prompts = ["hello", "a", [104, 105], "", "hello", "xyz"]
    settings = {"max_new_tokens": 9, "temperature": 0.9, "stop": "q", "presence_penalty": 0.5}
    alone = [model.generate(prompt, seed=4 + i, **settings) for i, prompt in enumerate(prompts)]
    for batch in (1, 4, 100):
        together = model.generate_batch(prompts, seed=4, batch=batch, **settings)
        assert [g.tokens for g in together] == [g.tokens for g in alone]
        assert [(g.seed, g.prompt_tokens) for g in together] == [(g.seed, g.prompt_tokens) for g in alone]
    assert model.generate_batch([]) == []


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        (["a", "x" * 25], ContextLengthError, r"prompt 2 of 2: the prompt has 25 tokens; .* 24; .*"),
        ([[1], [2], [257]], TokenizerError, r"prompt 3 of 3: token 257 at position 0 is not .*"),
        ([1, 2], TokenizerError, r"prompt 1 of 2: got tokens of type int64 and shape \(\); .*"),
        ("hello", ConfigError, r"prompts is one text; expected a list of prompts, or generate\(prompt\)"),
    ],
)
def test_prompts_that_cannot_be_are_one_line_and_named(
    model: LanguageModel, prompts: list[str], error: type[GptwoError], message: str
) -> None:
    with pytest.raises(error, match=rf"^{message}$"):
        model.generate_batch(prompts)


@pytest.mark.parametrize(("name", "value"), [("num", 0), ("num", 1.0), ("batch", 0), ("batch", True)])
def test_counts_that_cannot_be_are_one_line(model: LanguageModel, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}={value} is not possible; expected [^\n]+$"):
        model.generate_many("a", num=value) if name == "num" else model.generate_batch(["a"], batch=value)  # type: ignore[arg-type]


def test_penalties_and_biases_reach_the_policy(model: LanguageModel) -> None:
    greedy = {"max_new_tokens": 12, "temperature": 0.0}
    plain = model.generate("hello", **greedy).tokens
    for settings in (
        {"presence_penalty": 100.0},
        {"frequency_penalty": 100.0},
    ):
        tokens = model.generate("hello", **greedy, **settings).tokens
        assert len(set(tokens)) == len(tokens) > len(set(plain))
    assert model.generate("hello", **greedy, logit_bias={33: 1000}).tokens == [33] * 12


def test_a_setting_that_there_is_not_is_a_type_error(model: LanguageModel) -> None:
    with pytest.raises(TypeError, match="temprature"):
        model.generate("hello", temprature=1.0)  # type: ignore[call-arg]


def test_lookup_is_refused_where_it_could_change_the_text(model: LanguageModel) -> None:
    message = (
        r"^lookup=True needs [^\n]+ torch on cpu in float64 does not promise that: [^\n]+; leave out [^\n]+$"
    )
    for ask in (model.generate, model.stream):
        with pytest.raises(ConfigError, match=message):
            ask("hello", lookup=True)


def test_one_stop_string_may_be_given_alone(model: LanguageModel) -> None:
    whole = model.generate("hello", max_new_tokens=9, seed=4)
    stop = whole.text[3]
    cut = model.generate("hello", max_new_tokens=9, seed=4, stop=stop)
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"


def test_an_empty_prompt_begins_at_end_of_text(model: LanguageModel) -> None:
    assert model.generate("", max_new_tokens=5, seed=1) == model.generate([256], max_new_tokens=5, seed=1)


def test_a_stream_is_checked_before_its_first_piece(model: LanguageModel) -> None:
    with pytest.raises(ConfigError, match=r"^top_k=0 is not possible"):
        model.stream("hello", top_k=0)
    with pytest.raises(ContextLengthError, match=r"^the prompt has 25 tokens; [^\n]* 24; [^\n]+$"):
        model.stream("x" * 25)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([1, 257], "token 257 at position 1 is not in the model's vocabulary; expected 0 to 256; .*"),
        ([-1], "token -1 at position 0 .*"),
        ([0.5], r"got tokens of type float64 and shape \(1,\); expected a flat list of whole numbers"),
        ([True], "got tokens of type bool .*"),
        ([[1, 2]], r"got tokens of type int64 and shape \(1, 2\); .*"),
        ([[1], [2, 3]], "got tokens of type object .*"),
        (["a"], "got tokens of type <U1 .*"),
        ([2**70], "got tokens of type object .*"),
    ],
)
def test_ids_that_cannot_be_are_one_line(model: LanguageModel, prompt: list[int], message: str) -> None:
    for ask in (model.generate, model.stream, model.logits, model.score):
        with pytest.raises(TokenizerError, match=rf"^{message}$"):
            ask(prompt)


# --- Logits and scores ------------------------------------------------------------------------------------------------


def test_scores_are_the_log_probabilities_of_transformers(
    model: LanguageModel, theirs_fp64: GPT2LMHeadModel
) -> None:
    tokens = np.random.default_rng(0).integers(0, 257, 24)
    ids = torch.from_numpy(tokens)
    with torch.no_grad():
        logits = theirs_fp64(ids[None]).logits[0]
    expected = torch.log_softmax(logits[:-1], dim=1)[torch.arange(23), ids[1:]]
    scores = model.score(tokens)
    assert scores.dtype == np.float64
    FLOAT64.assert_close(scores, expected)
    FLOAT64.assert_close(model.logits(tokens.tolist()), logits)


def test_one_token_has_logits_and_no_score(model: LanguageModel) -> None:
    assert model.logits([3]).shape == (1, 257)
    assert model.score([3]).shape == (0,)


def test_logits_and_scores_refuse_too_many_tokens_and_none(model: LanguageModel) -> None:
    for ask in (model.logits, model.score):
        with pytest.raises(ContextLengthError, match=r"^the text has 25 tokens; [^\n]* 24; [^\n]+$"):
            ask([1] * 25)
        with pytest.raises(TokenizerError, match=r"^the text has no tokens; [^\n]+$"):
            ask([])


# --- Tokenizers -------------------------------------------------------------------------------------------------------


def test_without_a_tokenizer_ids_work_and_text_is_refused(without_tokenizer: LanguageModel) -> None:
    model = without_tokenizer
    assert len(model.generate([1, 2], max_new_tokens=3).tokens) == 3
    assert model.score([1, 2, 3]).shape == (2,)
    for ask in (
        lambda: model.tokenizer,
        lambda: model.generate("text"),
        lambda: model.generate([1], stop="x"),
        lambda: model.stream([1]),
    ):
        with pytest.raises(TokenizerError, match=r"^[^\n]+ holds no tokenizer; expected [^\n]+$"):
            ask()
    with pytest.raises(TokenizerError, match=r"^the prompt is empty [^\n]+; expected [^\n]+$"):
        model.generate([])


def test_a_text_that_the_tokenizer_gives_other_ids_than_the_models_is_refused(tmp_path: Path) -> None:
    folder = write_random_checkpoint(
        tmp_path, GPT2Config(n_layer=1, n_head=1, n_embd=4, context=8, vocab_size=2)
    )
    build_char(["abc"]).save(folder)
    with pytest.raises(TokenizerError, match=r"^token 2 at position 1 is not in the model's vocabulary; "):
        gptwo.load(folder, "cpu").generate("ac")
