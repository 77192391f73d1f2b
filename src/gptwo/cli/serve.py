"""``gptwo serve``: a model over HTTP, for OpenAI's clients."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from gptwo.base.errors import MissingExtraError
from gptwo.cli.model import add_engine, add_model, load
from gptwo.cli.size import parse_size, size_text
from gptwo.serve.settings import LOG_FORMATS, ServeSettings, gather_keys

# Of the extra "serve": without any of these there is no server.
_PACKAGES = ("fastapi", "uvicorn", "httptools", "prometheus_client")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Serve a model over HTTP with OpenAI's interface. It says where, writes a line for each request to standard "
        "error, and ends on Ctrl-C or SIGTERM when running requests are done. docs/guides/serve.md"
    )
    add_model(parser)
    _add_address(parser)
    _add_memory(parser)
    _add_limits(parser)
    parser.add_argument(
        "--log-format",
        choices=LOG_FORMATS,
        default=ServeSettings.log_format,
        help=f"of the lines for requests (default: {ServeSettings.log_format})",
    )
    parser.add_argument(
        "--log-prompts", action="store_true", help="write the text of prompts to the log, too: not by default"
    )
    add_engine(parser)
    parser.set_defaults(command=run)


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        default=ServeSettings.host,
        metavar="ADDRESS",
        help=f"to listen at; 0.0.0.0 for all of this machine (default: {ServeSettings.host}, this machine alone)",
    )
    _add_number(parser, "--port", "N", "to listen at; 0 takes one that is free")
    parser.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="ask every request but /health and the page's files for one of these keys; may be given several times. "
        "Others on this machine can read a command line: a file or GPTWO_API_KEY (one), GPTWO_API_KEYS (with commas) "
        "are safer",
    )
    parser.add_argument("--api-key-file", metavar="FILE", help="a key on each line; # begins a comment")
    parser.add_argument(
        "--model-name", metavar="NAME", help="the id that clients see (default: the folder's name)"
    )
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let web pages of this origin call the server, as https://example.org, or *; may be given several times "
        "(default: none)",
    )


def _add_memory(parser: argparse.ArgumentParser) -> None:
    _add_number(parser, "--slots", "N", "texts written at the same time")
    _add_number(parser, "--queue", "N", "texts that wait for a slot; one more is refused with 429")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--kv-tokens",
        type=int,
        metavar="N",
        help="tokens whose keys and values are held in memory (default: as many as all slots can use, in at most a "
        "quarter of the free memory)",
    )
    size.add_argument("--kv-memory", type=parse_size, metavar="SIZE", help="the same in bytes: 512MB, 2GiB")
    parser.add_argument(
        "--force", action="store_true", help="begin even where the plan says that the memory is too small"
    )
    parser.add_argument(
        "--no-prefix-cache",
        action="store_true",
        help="read every prompt whole, instead of keeping what earlier ones began with",
    )
    parser.add_argument(
        "--no-explain",
        action="store_true",
        help="do not run the model for those who look inside (/explain, which the page asks)",
    )
    _add_number(
        parser, "--explain-queue", "N", "explanations that wait for their turn; one more is refused with 429"
    )
    add_explain_memory(parser)


def add_explain_memory(parser: argparse.ArgumentParser) -> None:
    _add_number(
        parser,
        "--explain-memory",
        "SIZE",
        "of the explanations that are kept",
        setting="explain_memory_bytes",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    _add_number(parser, "--max-prompt-tokens", "N", "of one prompt (default: the model's context)")
    _add_number(parser, "--max-n", "N", "choices sent for one prompt")
    _add_number(parser, "--max-best-of", "N", "choices written for one prompt")
    _add_number(
        parser, "--max-total-tokens", "N", "of one request, its prompts and all that may be written together"
    )
    _add_number(parser, "--max-body", "SIZE", "of a request's body", setting="max_body_bytes")
    _add_number(parser, "--max-header-bytes", "SIZE", "of a request's line and headers together")
    _add_number(parser, "--max-headers", "N", "how many of them")
    _add_number(parser, "--header-time", "S", "until a request's last header", setting="header_time_s")
    _add_number(parser, "--body-time", "S", "from there until its last byte", setting="body_time_s")
    _add_number(parser, "--idle-time", "S", "between two requests of a connection", setting="idle_time_s")
    _add_number(
        parser, "--write-time", "S", "that a client may stay behind in reading", setting="write_time_s"
    )
    _add_number(
        parser,
        "--max-connections",
        "N",
        "open at a time; at the limit the one that has kept the server waiting longest goes",
    )
    _add_number(parser, "--ping", "S", "of silence after which a stream gets a comment", setting="ping_s")
    _add_number(
        parser,
        "--grace",
        "S",
        "that running requests have after the first signal; a second one ends at once",
        setting="grace_s",
    )


def _add_number(
    parser: argparse.ArgumentParser,
    flag: str,
    unit: Literal["N", "S", "SIZE"],
    meaning: str,
    *,
    setting: str = "",
) -> None:
    """A flag of ``setting`` (else of the setting of its own name), with that setting's default."""
    name = setting or flag.removeprefix("--").replace("-", "_")
    default = getattr(ServeSettings, name)
    if unit == "S":
        meaning = f"seconds {meaning} (default: {default:g})"
    elif default is not None:
        meaning += f" (default: {size_text(default) if unit == 'SIZE' else default})"
    kinds: dict[str, Callable[[str], float]] = {"N": int, "S": float, "SIZE": parse_size}
    parser.add_argument(flag, type=kinds[unit], dest=name, default=default, metavar=unit, help=meaning)


def run(arguments: argparse.Namespace, on_ready: Callable[[str], None] = lambda url: None) -> int:
    """Serve until it is told to end; ``on_ready`` is given the address when requests are answered."""
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise MissingExtraError(
            f"serving needs {', '.join(missing)}; install it with: pip install 'gptwo[serve]'"
        )
    from gptwo.serve.listener import is_open_to_others, open_socket, url_of

    settings = _settings(arguments)
    listener = open_socket(settings)
    url = url_of(listener)
    if is_open_to_others(listener) and not settings.api_keys:
        print(
            f"warning: {url} is open to whoever reaches this machine, and asks for no key; give --api-key-file",
            file=sys.stderr,
        )
    say = partial(print, flush=True)

    from gptwo.checkpoint.resolve import resolve_model
    from gptwo.serve.logs import Log
    from gptwo.serve.metrics import Metrics
    from gptwo.serve.server import Server
    from gptwo.serve.service import ModelService
    from gptwo.serve.serving_plan import ServingPlan, plan_serving

    log, metrics = Log(sys.stderr, settings.log_format), Metrics(settings.model_name)

    def plan() -> ServingPlan:
        folder = resolve_model(arguments.model)
        say(f"loading {folder}; {url}/health says when it is ready")
        return plan_serving(
            settings,
            folder,
            device=arguments.device,
            engine=arguments.engine,
            dtype=arguments.dtype,
            kv_dtype=arguments.kv_dtype,
            threads=arguments.threads,
        )

    def ready() -> None:
        say(f"listening on {url}")
        on_ready(url)

    service = ModelService(settings, lambda: load(arguments), plan=plan, metrics=metrics, say=say)
    server = Server(settings, log=log, metrics=metrics)
    try:
        asyncio.run(server.run(listener, service, ready=ready))
    finally:
        log.close()
    return 0


def _settings(arguments: argparse.Namespace) -> ServeSettings:
    file = None if arguments.api_key_file is None else Path(arguments.api_key_file)
    of_flags = {
        name: getattr(arguments, name)
        for name in (setting.name for setting in fields(ServeSettings))
        if hasattr(arguments, name)
    }
    return ServeSettings(
        **{
            **of_flags,
            "model_name": _name_of(arguments.model) if arguments.model_name is None else arguments.model_name,
            "api_keys": gather_keys(arguments.api_key, file, os.environ),
        },
        cors_origins=tuple(arguments.cors),
        kv_memory_bytes=arguments.kv_memory,
        prefix_cache=not arguments.no_prefix_cache,
        explain=not arguments.no_explain,
    )


def _name_of(model: str) -> str:
    """A folder's own name, or a hub id's second part: never a path."""
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model.rstrip("/").rpartition("/")[2]
