"""``gptwo prepare``: text in, token shards out."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from gptwo.cli.output import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read text, tokenize it on all cores and write checksummed shards with a fixed validation split."
    )
    parser.add_argument("text", metavar="TEXT", nargs="+", help="files, folders, or - for standard input")
    parser.add_argument(
        "--tokenizer",
        default="bpe",
        help="gpt2, bpe (trained on this text), char, byte, or a path (default: bpe)",
    )
    parser.add_argument("--vocab-size", type=int, help="size of a trained bpe vocabulary")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument(
        "--val-fraction", type=float, default=0.1, help="share of the text to validate on (default: 0.1)"
    )
    parser.add_argument(
        "--text-field", default="text", help="field or column of .jsonl, .csv and parquet (default: text)"
    )
    parser.add_argument("--force", action="store_true", help="replace a folder that was prepared before")
    add_json(parser)
    parser.set_defaults(command=run)


def _tokenizer_of(name: str) -> str:
    """A run stands for the tokenizer of its checkpoints; every other name is the tokenizer room's to read."""
    from gptwo.checkpoint.resolve import resolve_model
    from gptwo.checkpoint.runs import is_run

    return str(resolve_model(name)) if is_run(Path(name)) else name


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from gptwo.data import prepare
    from gptwo.data.terminal import prepare_bar

    with prepare_bar(Console(stderr=True)) as progress:
        index = prepare(
            arguments.text,
            tokenizer=_tokenizer_of(arguments.tokenizer),
            out=Path(arguments.out),
            vocab_size=arguments.vocab_size,
            val_fraction=arguments.val_fraction,
            text_field=arguments.text_field,
            force=arguments.force,
            progress=progress,
            stdin=sys.stdin.buffer,
        )
    if arguments.json:
        print_json({"folder": str(index.folder), **json.loads(index.to_json())})
        return 0
    train, val = index.splits["train"], index.splits["val"]
    print(
        f"{index.folder}: {train.tokens:,} training and {val.tokens:,} validation tokens "
        f"({train.bytes + val.bytes:,} bytes of text) with the {index.tokenizer.kind} tokenizer, "
        f"V={index.tokenizer.vocab_size:,}"
    )
    for what, count in index.skipped.items():
        if count:
            print(f"skipped: {count} {what}")
    if index.split_notice:
        print(f"note: {index.split_notice}", file=sys.stderr)
    print(f"train on it: gptwo train --data {shlex.quote(str(index.folder))} --out runs/mine")
    return 0
