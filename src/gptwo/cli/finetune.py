"""``gptwo finetune``: a model learns answers."""

from __future__ import annotations

import argparse
from typing import Any

from gptwo.cli.run import Done, add_run, carry_out
from gptwo.train.finetune_config import SHAPE, FinetuneConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Teach a GPT-2 from examples: all of its weights, or adapters (LoRA) alone. Every setting is a flag here and "
        "a key of the TOML file that --config names, where BASE is the key model."
    )
    parser.add_argument(
        "model",
        metavar="BASE",
        nargs="?",
        default=argparse.SUPPRESS,
        help="a checkpoint folder, a run, an adapter, or a hub id; not needed to resume",
    )
    add_run(parser, FinetuneConfig, without={"model", *SHAPE})
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    return carry_out(arguments, "gptwo finetune", FinetuneConfig, _finetune, settle=_settle_base)


def _settle_base(settings: dict[str, Any]) -> dict[str, Any]:
    from gptwo.train.finetune import base_name

    name = settings.get("model")
    return {**settings, "model": base_name(name)} if isinstance(name, str) else settings


def _finetune(config: FinetuneConfig, **frame: Any) -> Done:
    from gptwo.train.finetune import finetune

    result = finetune(config, **frame)
    before, after = result.base_nats_per_token, result.run.evaluation
    learned = ""
    if before is not None and after is not None:
        learned = (
            f"loss on the held-out answers: {before:.4f} nats per token before, "
            f"{after.nats_per_token:.4f} after {result.run.step} steps"
        )
    return Done(result.run, json={"base_nats_per_token": before}, line=learned)
