"""``gptwo demo``: text, tokenizer, model and writing, in a few minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from gptwo.cli.model import add_device
from gptwo.cli.output import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train a small GPT-2 on Python's own sources, or on your text, and let it write."
    parser.add_argument(
        "--text", metavar="FILE-OR-FOLDER", help="your text (default: Python's standard library)"
    )
    parser.add_argument(
        "--out",
        default="runs/demo",
        help="folder for everything it makes (default: runs/demo, or the next free name)",
    )
    parser.add_argument(
        "--minutes", type=float, default=3.0, metavar="X", help="how long to train (default: 3)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="decides weights and data order (default: 0)"
    )
    add_device(parser)
    add_json(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from gptwo.demo import run_demo

    result = run_demo(
        text=arguments.text,
        out=Path(arguments.out),
        minutes=arguments.minutes,
        seed=arguments.seed,
        device=arguments.device,
        console=Console(stderr=True),
    )
    if arguments.json:
        print_json(result.to_json())
        return 0
    print(result.summary())
    return 0
