"""``gptwo train``: a GPT-2 from prepared text."""

from __future__ import annotations

import argparse

from gptwo.cli.run import Done, add_run, carry_out
from gptwo.config import TrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a GPT-2. Every setting is a flag here and a key of the TOML file that --config names."
    )
    add_run(parser, TrainConfig)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from gptwo.train.loop import train

    return carry_out(
        arguments, "gptwo train", TrainConfig, lambda config, **frame: Done(train(config, **frame))
    )
