"""What ``import gptwo`` promises, pinned: a change here is a change for every user."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import gptwo
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.settings import SamplingSettings, WritingSettings

SETTINGS = {
    "temperature": "float",
    "top_k": "int | None",
    "top_p": "float | None",
    "min_p": "float | None",
    "repetition_penalty": "float",
    "presence_penalty": "float",
    "frequency_penalty": "float",
    "logit_bias": "Mapping[int, float] | None",
    "seed": "int | None",
    "max_new_tokens": "int",
    "stop": "str | Sequence[str] | None",
    "slide": "bool",
    "lookup": "bool",
}
WRITING = "**settings: 'Unpack[WritingSettings]'"
SIGNATURES = {
    "evaluate": "(model: 'LanguageModel', data: 'str | Path', *, task: 'str' = 'loss', "
    "split: 'Split | None' = None, stride: 'int | None' = None, limit: 'int | None' = None, "
    "batch: 'int | None' = None, progress: 'Progress | None' = None) -> 'EvaluationResult'",
    "load": "(path: 'str | Path', device: 'str' = 'auto', dtype: 'str | None' = None, *, "
    "engine: 'str' = 'auto', threads: 'int | None' = None, kv_dtype: 'str | None' = None) -> 'LanguageModel'",
    "LanguageModel.generate": f"(self, prompt: 'str | Sequence[int]', {WRITING}) -> 'Generation'",
    "LanguageModel.generate_many": f"(self, prompt: 'str | Sequence[int]', *, num: 'int', {WRITING}) "
    "-> 'list[Generation]'",
    "LanguageModel.generate_batch": "(self, prompts: 'Sequence[str | Sequence[int]]', *, batch: 'int' = 8, "
    f"{WRITING}) -> 'list[Generation]'",
    "LanguageModel.stream": f"(self, prompt: 'str | Sequence[int]', {WRITING}) -> 'TextPieces'",
    "LanguageModel.prompt_ids": "(self, prompt: 'str | Sequence[int]') -> 'Tokens'",
    "LanguageModel.logits": "(self, tokens: 'Sequence[int] | np.ndarray[Any, Any]') "
    "-> \"Float[np.ndarray, 'T V']\"",
    "LanguageModel.score": "(self, tokens: 'Sequence[int] | np.ndarray[Any, Any]') "
    "-> \"Float[np.ndarray, ' T-1']\"",
}


def test_the_names_are_these() -> None:
    assert gptwo.__all__ == [
        "EvaluationResult",
        "Explanation",
        "Generation",
        "GptwoError",
        "LanguageModel",
        "TextPieces",
        "__version__",
        "evaluate",
        "explain",
        "load",
    ]
    for name in gptwo.__all__:
        assert getattr(gptwo, name) is not None
        assert name in dir(gptwo)
    with pytest.raises(AttributeError, match=r"^module 'gptwo' has no attribute 'train_me'$"):
        gptwo.train_me  # noqa: B018


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signatures_are_these(name: str) -> None:
    owner, _, method = name.rpartition(".")
    function = getattr(getattr(gptwo, owner) if owner else gptwo, method)
    assert str(inspect.signature(function)) == SIGNATURES[name]


def test_a_language_model_has_these_attributes() -> None:
    public = {name for name in vars(gptwo.LanguageModel) if not name.startswith("_")}
    methods = {name.partition(".")[2] for name in SIGNATURES} - {""}
    assert public == methods | {"config", "description", "engine", "folder", "tokenizer"}


def test_a_generation_has_these_fields() -> None:
    names = ["text", "tokens", "logprobs", "finish_reason", "seed", "prompt_tokens", "notice"]
    assert [field.name for field in fields(gptwo.Generation)] == names


def test_an_evaluation_has_these_fields() -> None:
    names = ["task", "protocol", "rule", "metrics", "counts"]
    assert [field.name for field in fields(gptwo.EvaluationResult)] == names


def test_the_settings_of_writing_are_these_and_all_of_a_policy() -> None:
    found = {name: hint.__forward_arg__ for name, hint in WritingSettings.__annotations__.items()}
    assert found == SETTINGS
    for field in fields(SamplingPolicy):
        assert SETTINGS[field.name] == field.type
    assert set(SamplingSettings.__annotations__) == {field.name for field in fields(SamplingPolicy)}


def test_every_setting_is_described_where_a_user_asks_for_help() -> None:
    described = str(gptwo.LanguageModel.__doc__)
    assert all(name in described for name in SETTINGS)


def test_importing_it_costs_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, gptwo; gptwo.GptwoError; print(gptwo.__version__, {'numpy', 'torch'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout == f"{gptwo.__version__} set()\n"


def test_the_version_is_the_packages() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert gptwo.__version__ == tomllib.loads(pyproject.read_text())["project"]["version"]
