"""``gptwo serve`` from its flags to its exit code, with a model of a few weights."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import body, call, header, scope, status
from safetensors.numpy import load_file, save_file
from tiny_service import LONG_S, answer, request, until

import gptwo
from command import command, command_line
from gptwo.base.units import in_units
from gptwo.cli import build_parser, serve
from gptwo.config import GPT2Config
from gptwo.serve.metrics import Metrics
from gptwo.serve.service import ModelService
from gptwo.serve.serving_plan import plan_serving
from gptwo.serve.settings import ServeSettings
from gptwo.tokenizer import build_byte
from random_checkpoint import write_random_checkpoint

TOKENIZER = build_byte()
CONFIG = GPT2Config(n_layer=1, n_head=2, n_embd=16, context=64, vocab_size=TOKENIZER.vocab_size)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_random_checkpoint(
        tmp_path_factory.mktemp("models") / "small", CONFIG, eot_id=TOKENIZER.eot_id
    )
    weights = load_file(folder / "model.safetensors")
    single = {name: tensor.astype(np.float32) for name, tensor in weights.items()}
    save_file(single, folder / "model.safetensors")
    TOKENIZER.save(folder)
    return folder


def settings(*flags: object) -> ServeSettings:
    parsed = build_parser().parse_args(["serve", *map(str, flags)])
    return serve._settings(parsed)


# --- flags --------------------------------------------------------------------------------------------------------


def test_without_flags_everything_is_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("GPTWO_API_KEY", "GPTWO_API_KEYS"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "mine").mkdir()
    assert settings(tmp_path / "mine") == ServeSettings(model_name="mine")


def test_every_setting_has_a_flag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTWO_API_KEY", "sk-environment")
    (tmp_path / "keys").write_text("sk-file\n", encoding="utf-8")
    flags = """
        m --host 0.0.0.0 --port 1 --api-key sk-1 --api-key sk-2 --api-key-file KEYS --model-name other --cors *
        --cors https://a.org --slots 2 --queue 3 --kv-memory 1.5GiB --no-prefix-cache --max-prompt-tokens 4 --max-n 5
        --max-best-of 6 --max-total-tokens 7 --max-body 8kB --max-header-bytes 9KiB --max-headers 10 --header-time 11
        --body-time 12.5 --idle-time 13 --write-time 14 --max-connections 15 --ping 16 --grace 0 --log-format text
        --log-prompts --no-explain --explain-queue 16 --explain-memory 17MB --force
    """.replace("KEYS", str(tmp_path / "keys"))
    given = settings(*flags.split())
    assert given == ServeSettings(
        model_name="other",
        host="0.0.0.0",
        port=1,
        api_keys=("sk-1", "sk-2", "sk-file", "sk-environment"),
        cors_origins=("*", "https://a.org"),
        slots=2,
        queue=3,
        kv_memory_bytes=3 << 29,
        prefix_cache=False,
        explain=False,
        explain_queue=16,
        explain_memory_bytes=17_000_000,
        max_prompt_tokens=4,
        max_n=5,
        max_best_of=6,
        max_total_tokens=7,
        max_body_bytes=8000,
        max_header_bytes=9 << 10,
        max_headers=10,
        header_time_s=11,
        body_time_s=12.5,
        idle_time_s=13,
        write_time_s=14,
        max_connections=15,
        ping_s=16,
        grace_s=0,
        log_format="text",
        log_prompts=True,
        force=True,
    )
    assert settings("m", "--kv-tokens", 100).kv_tokens == 100
    # A setting that has come since and is not above would be found here.
    default = ServeSettings()
    assert [name for name in vars(given) if getattr(given, name) == getattr(default, name)] == ["kv_tokens"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("openai-community/gpt2", "gpt2"), ("gpt2", "gpt2"), ("somewhere/else/mine/", "mine")],
)
def test_the_model_s_name_is_never_a_path(name: str, shown: str) -> None:
    assert settings(name).model_name == shown


# --- mistakes -----------------------------------------------------------------------------------------------------


def test_mistakes_are_one_line(model: Path, tmp_path: Path) -> None:
    def line(*flags: object) -> str:
        return command("serve", *flags).error_line()

    assert "--kv-memory: '3 apples' is no size" in line(model, "--kv-memory", "3 apples")
    assert "not allowed with argument" in line(model, "--kv-memory", "1GB", "--kv-tokens", "5")
    assert line(model, "--slots", "0") == "ConfigError: slots=0 is not possible; expected 1 or more"
    assert "has none; expected one a line" in line(model, "--api-key-file", os.devnull)
    assert "--log-format: invalid choice" in line(model, "--log-format", "xml")
    missing = line(tmp_path / "missing", "--port", 0)
    assert missing.startswith("CheckpointError: there is no model")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen at port {port}" in line(model, "--port", port)


def test_what_shows_when_the_model_is_there_is_one_line_too(model: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(model / name)
    for flags, says in (
        ((model, "--kv-tokens", 10), "expected --kv-tokens 64 or more"),
        ((tmp_path,), "TokenizerError: "),
    ):
        outcome = command("serve", *flags, "--port", 0)
        assert outcome.code == 2
        assert outcome.out.startswith("loading ")
        assert says in outcome.err
        assert outcome.err.count("\n") == 1


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    expected = "MissingExtraError: serving needs uvicorn; install it with: pip install 'gptwo[serve]'"
    assert command("serve", "any").error_line() == expected


def test_other_commands_do_not_pay_for_it() -> None:
    code = "import sys; from gptwo.cli import build_parser; build_parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"fastapi", "uvicorn", "starlette", "prometheus_client", "numpy"} & set(loaded.split())


# --- the service --------------------------------------------------------------------------------------------------


def service_of(model: Path, **changed: Any) -> ModelService:
    chosen = ServeSettings(**{"slots": 2, **changed})
    loaded = partial(gptwo.load, model, engine="native", threads=1)
    return ModelService(
        chosen,
        loaded,
        plan=partial(plan_serving, chosen, model, engine="native", threads=1),
        metrics=Metrics(),
        say=lambda line: None,
    )


def test_what_is_loaded_is_loading_until_it_is_open_and_then_no_work_for_the_collector(model: Path) -> None:
    async def served() -> None:
        service = service_of(model)
        service.build()
        assert service._serving.status == "loading"
        service.open()
        assert service._serving.status == "ok"
        assert gc.get_freeze_count() > 10_000
        await service.close(0)

    asyncio.run(served())
    assert gc.get_freeze_count() == 0


def test_where_the_native_engine_was_not_measured_a_process_is_not_counted_twice(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(measured: dict[str, int]) -> int:
        monkeypatch.setattr(
            "gptwo.serve.serving_plan.measured_process_bytes", lambda target, what: measured.get(what, 0)
        )
        return plan_serving(settings(model), model, engine="torch", threads=1).generation.memory["process"]

    both, torch_alone = planned({"native": 10**9, "torch": 4 * 10**9}), planned({"torch": 4 * 10**9})
    assert both - torch_alone == pytest.approx(3 * 10**9, abs=10**8)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, 403),
        ({"host": "localhost"}, 403),
        ({"api_keys": ("sk-right",)}, 401),
        ({"host": "0.0.0.0"}, 503),
    ],
)
def test_a_page_s_own_name_does_not_reach_a_server_without_a_key(
    model: Path, changed: dict[str, Any], code: int
) -> None:
    app = service_of(model, **changed).app
    assert (
        status(call(app, scope("/v1/models", [(b"host", b"evil.example")], method="GET"), body(b""))) == code
    )
    assert status(call(app, scope("/health", [(b"host", b"127.0.0.1")], method="GET"), body(b""))) == 503


def test_cors_is_asked_for_before_a_key_and_only_where_it_is_on(model: Path) -> None:
    asks = [
        (b"host", b"127.0.0.1"),
        (b"origin", b"https://a.org"),
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"authorization,content-type"),
    ]
    preflight = scope("/v1/completions", asks, method="OPTIONS")
    on = service_of(model, api_keys=("sk-right",), cors_origins=("https://a.org",)).app
    sent = call(on, preflight, body(b""))
    assert status(sent) == 200
    assert header(sent, "access-control-allow-origin") == "https://a.org"
    sent = call(on, scope("/v1/models", asks[:2], method="GET"), body(b""))
    assert status(sent) == 401
    assert header(sent, "access-control-allow-origin") == "https://a.org"
    sent = call(on, scope("/v1/models", [(b"origin", b"https://b.org")], method="GET"), body(b""))
    assert header(sent, "access-control-allow-origin") is None
    off = service_of(model, api_keys=("sk-right",)).app
    sent = call(off, preflight, body(b""))
    assert status(sent) == 401
    assert header(sent, "access-control-allow-origin") is None


# --- a server -----------------------------------------------------------------------------------------------------

# As ``python -m gptwo``, which says at its end whether torch was loaded.
_PROGRAM = """
import sys
from gptwo.cli import main
code = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(code)
"""


def _metrics(client: socket.socket) -> str:
    client.sendall(request("GET", "/metrics"))
    return answer(client).body.decode()


@contextmanager
def started(
    command: Sequence[str], env: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A server that is ready, and the lines it says until then."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        try:
            yield process, [process.stdout.readline() for _ in range(5)]
        finally:
            process.kill()


def test_it_says_what_it_serves_and_ends_well(model: Path) -> None:
    flags = ("--port", "0", "--engine", "native", "--threads", "1", "--slots", "2", "--host", "0.0.0.0")
    without_keys = {name: value for name, value in os.environ.items() if not name.startswith("GPTWO_API")}
    command = [sys.executable, "-c", _PROGRAM, "serve", str(model), *flags]
    with started(command, env=without_keys) as (process, lines):
        port = int(lines[-1].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as client:
            body = json.dumps({"prompt": "The", "max_tokens": 3, "ignore_eos": True}).encode()
            client.sendall(request("POST", "/v1/completions", body, Content_Type="application/json"))
            given = answer(client)
            # The text is reported by the engine's thread, which may be a moment behind its own words.
            until(lambda: 'generation_tokens_total{model_name="small"} 3.0' in _metrics(client))
            assert 'gptwo:kv_cache_tokens{model_name="small"} 128.0' in _metrics(client)
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=LONG_S)
    assert process.returncode == 0, errors
    took, torch_was_loaded = rest.splitlines()
    assert torch_was_loaded == "False"
    loading, plan, engine, memory, listening = lines
    assert re.match(r"plan: [\d.]+ MB of memory at most \(.*weights .*kv .*\) of [\d.]+ GB free; ", plan)
    assert re.match(r"took: [\d.]+ MB of memory at most \([+-]\d+%\), 3 tokens written at ", took)
    assert took.endswith("; keys and values take their memory as they come") == ("(-" in took)
    assert loading.startswith(f"loading {model}; http://0.0.0.0:{port}/health says when it is ready")
    assert engine.startswith("small: native on cpu in fp32 (")
    size = in_units(128 * gptwo.load(model, engine="native").engine.kv_bytes_per_token)
    assert memory == (
        f"KV memory: {size} for 128 tokens; 2 texts of at most 64 tokens at a time, 128 more may wait\n"
    )
    assert listening == f"listening on http://0.0.0.0:{port}\n"
    assert given.status == 200, given.body
    assert json.loads(given.body)["usage"]["completion_tokens"] == 3
    warning, *log = errors.splitlines()
    assert warning.startswith("warning: http://0.0.0.0")
    assert "asks for no key" in warning
    written = [json.loads(line) for line in log]
    assert {line["event"] for line in written[:-1]} == {"request"}
    assert written[-1]["event"] == "closing"
    assert written[0]["route"] == "/v1/completions"
    assert "The" not in log[0]


def test_on_this_machine_alone_or_with_a_key_it_does_not_warn(model: Path) -> None:
    for flags in (("--host", "127.0.0.1"), ("--host", "0.0.0.0", "--api-key", "sk-right")):
        with started([*command_line("serve", model, "--port", 0, "--threads", 1), *flags]) as (
            process,
            lines,
        ):
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=LONG_S)
        assert process.returncode == 0, errors
        assert lines[-1].startswith("listening on ")
        assert [json.loads(line)["event"] for line in errors.splitlines()] == ["closing"]


@pytest.mark.parametrize("waits", [True, False], ids=["then", "before"])
def test_explain_imports_torch_when_it_is_ready_and_ends_well(waits: bool, model: Path) -> None:
    command = command_line("explain", model, "--engine", "native", "--threads", 1, "--no-browser")
    with started(command) as (process, lines):
        maps = Path(f"/proc/{process.pid}/maps")
        if waits:
            until(lambda: "libtorch" in maps.read_text())
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=LONG_S)
    assert process.returncode == 0, errors
    assert lines[-1].startswith("listening on ")
    assert "Traceback" not in errors
