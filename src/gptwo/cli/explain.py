"""``gptwo explain``: the page of a model, served to this machine alone and opened in the browser."""

from __future__ import annotations

import argparse
import threading
import webbrowser

from gptwo.cli import serve
from gptwo.cli.model import add_engine, add_model
from gptwo.serve.settings import ServeSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Open the page of a model: what it makes of a prompt, token by token, and where the time goes. The server is "
        "that of gptwo serve, for this machine alone, and ends on Ctrl-C. docs/guides/page.md"
    )
    add_model(parser)
    parser.add_argument(
        "--port", type=int, default=0, metavar="N", help="to listen at (default: one that is free)"
    )
    parser.add_argument("--no-browser", action="store_true", help="only say where the page is")
    serve.add_explain_memory(parser)
    add_engine(parser)
    parser.set_defaults(
        command=run,
        host=ServeSettings.host,
        api_key=[],
        api_key_file=None,
        model_name=None,
        cors=[],
        kv_memory=None,
        no_prefix_cache=False,
        no_explain=False,
        log_format="text",
    )


def run(arguments: argparse.Namespace) -> int:
    return serve.run(arguments, on_ready=_import if arguments.no_browser else _open)


def _import(url: str) -> None:
    from gptwo.serve.explaining.explaining import import_ahead

    import_ahead()


def _open(url: str) -> None:
    # Some browsers are waited for until they are closed.
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    _import(url)
