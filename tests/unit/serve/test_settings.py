"""What a server may be told, and what it may not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from gptwo.base.errors import ConfigError
from gptwo.serve.settings import ServeSettings, gather_keys


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("port", -1, "port=-1 is not possible; expected 0 to 65535"),
        ("port", 65536, "expected 0 to 65535"),
        ("host", "", "the host is empty"),
        ("model_name", "", "the model name ''"),
        ("model_name", "a/b", "without slashes; choose one with --model-name"),
        ("model_name", "..\\b", "without slashes"),
        ("model_name", "a\nb", "is not possible"),
        ("model_name", "x" * 129, "1 to 128 characters"),
        ("slots", 0, "slots=0 is not possible; expected 1 or more"),
        ("queue", 0, "queue=0"),
        ("kv_tokens", 0, "kv_tokens=0"),
        ("kv_memory_bytes", 0, "kv_memory_bytes=0"),
        ("max_prompt_tokens", 0, "max_prompt_tokens=0"),
        ("max_n", 0, "max_n=0"),
        ("max_n", 17, "max_best_of=16 is less than max_n=17"),
        ("max_total_tokens", -5, "max_total_tokens=-5"),
        ("max_body_bytes", 0, "max_body_bytes=0"),
        ("max_header_bytes", 0, "max_header_bytes=0"),
        ("max_headers", 0, "max_headers=0"),
        ("max_connections", 0, "max_connections=0"),
        ("max_connections", 100_001, "expected at most 100000"),
        ("header_time_s", 0.0, "header_time_s=0.0 is not possible; expected seconds above 0"),
        ("body_time_s", float("nan"), "body_time_s=nan"),
        ("idle_time_s", float("inf"), "idle_time_s=inf"),
        ("write_time_s", -1.0, "write_time_s=-1.0"),
        ("ping_s", 0.0, "ping_s=0.0"),
        ("grace_s", -0.1, "grace_s=-0.1"),
        ("grace_s", float("nan"), "grace_s=nan"),
        ("log_format", "xml", "log_format='xml' is unknown; expected json or text"),
        ("cors_origins", ("example.org",), "the CORS origin 'example.org' is not possible"),
        ("cors_origins", ("https://a.org/x",), "expected http://HOST"),
    ],
)
def test_what_is_not_possible_is_said_in_a_line(setting: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServeSettings(**{setting: value})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_memory_is_not_given_twice() -> None:
    with pytest.raises(ConfigError, match="both given"):
        ServeSettings(kv_tokens=2048, kv_memory_bytes=1 << 30)


def test_what_is_possible() -> None:
    settings = ServeSettings(
        model_name="mô hình 2.1",
        port=0,
        cors_origins=("*", "https://a.org", "http://localhost:3000", "http://[::1]:3000"),
        grace_s=0.0,
        max_n=1,
        max_best_of=1,
    )
    assert settings.model_name == "mô hình 2.1"


def test_it_listens_to_this_machine_alone_unless_told() -> None:
    assert ServeSettings().host == "127.0.0.1"
    assert ServeSettings().cors_origins == ()
    assert not ServeSettings().log_prompts


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServeSettings().port = 1  # type: ignore[misc]


def test_keys_are_not_shown() -> None:
    assert "sk-secret" not in repr(ServeSettings(api_keys=("sk-secret",)))


def test_keys_come_from_everywhere_and_count_once(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\nsk-file\n\n  sk-spaces  \nsk-flag\n", encoding="utf-8")
    environment = {"GPTWO_API_KEY": "sk-one", "GPTWO_API_KEYS": "sk-two, sk-three,,", "OTHER": "sk-other"}
    found = gather_keys(["sk-flag", "sk-second"], file, environment)
    assert found == ("sk-flag", "sk-second", "sk-file", "sk-spaces", "sk-one", "sk-two", "sk-three")
    assert gather_keys() == ()


@pytest.mark.parametrize("key", ["", "two words", "sk-é", "tab\there", "sk-\n"])
def test_an_impossible_key_is_named_by_its_place_alone(key: str) -> None:
    with pytest.raises(ConfigError, match="the API key of --api-key is not possible") as caught:
        gather_keys([key])
    assert not key.strip() or key.strip() not in str(caught.value)


def test_a_file_of_keys_that_has_none_does_not_open_the_server(tmp_path: Path) -> None:
    empty = tmp_path / "keys"
    empty.write_text("# none yet\n\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has none; expected one a line"):
        gather_keys(file=empty)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        gather_keys(file=tmp_path / "missing")
    empty.write_bytes(b"sk-\xff\n")
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        gather_keys(file=empty)
    empty.write_text("sk-good\nnot good\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"keys:2 is not possible") as caught:
        gather_keys(file=empty)
    assert "not good" not in str(caught.value)
