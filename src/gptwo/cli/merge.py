"""``gptwo merge``: an adapter and its base become one checkpoint."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from gptwo.cli.output import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Add an adapter to its base: a checkpoint like any other, without the adapter's cost."
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="an adapter's folder, or a run of gptwo finetune")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--base", help="where the base is now (default: where the adapter says)")
    add_json(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from gptwo.checkpoint.adapter import merge

    merged = merge(arguments.adapter, Path(arguments.out), base=arguments.base)
    if arguments.json:
        print_json({"folder": str(merged)})
    else:
        print(f"{merged}\nwrite with it: gptwo generate {shlex.quote(str(merged))} --prompt TEXT")
    return 0
