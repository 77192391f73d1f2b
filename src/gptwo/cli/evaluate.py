"""``gptwo eval``: how good a model is on a text or a task."""

from __future__ import annotations

import argparse

from gptwo.cli.model import add_engine, add_model, load
from gptwo.cli.output import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Loss, perplexity and bits per byte over a whole text, or accuracy on a task file."
    add_model(parser)
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR|FILE",
        help="a prepared folder, a text file, or the file of --task",
    )
    parser.add_argument(
        "--task",
        default="loss",
        choices=["loss", "lambada", "hellaswag", "multiple-choice"],
        help="what to measure (default: loss)",
    )
    parser.add_argument(
        "--split", choices=["train", "val"], help="of a prepared folder, which part (default: val)"
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="S",
        help="tokens between the beginnings of two windows (default: the context C, windows side by side); "
        "tokens are predicted from at least C - S + 1 before them",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the first N tokens of a text, or examples of a task"
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="rows in one pass (default: as many as hold some thousand tokens)",
    )
    add_engine(parser)
    add_json(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from gptwo.evaluation.evaluate import evaluate
    from gptwo.evaluation.terminal import evaluation_bar

    model = load(arguments)
    unit = "tokens" if arguments.task == "loss" else "continuations"
    with evaluation_bar(Console(stderr=True), unit) as progress:
        result = evaluate(
            model,
            arguments.data,
            task=arguments.task,
            split=arguments.split,
            stride=arguments.stride,
            limit=arguments.limit,
            batch=arguments.batch,
            progress=progress,
        )
    if arguments.json:
        print_json(
            {
                "model": arguments.model,
                "engine": model.description,
                "data": arguments.data,
                **result.to_json(),
            }
        )
        return 0
    counted = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in result.counts.items())
    print(f"{arguments.model} ({model.description}) on {arguments.data}: {counted}")
    print(f"{result.protocol}: {result.rule}")
    width = max(map(len, result.metrics))
    for name, value in result.metrics.items():
        print(f"{name:{width}}  {value:.4f}")
    return 0
