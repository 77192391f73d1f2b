"""``gptwo info``: what a size or a checkpoint is made of, by formula."""

from __future__ import annotations

import argparse
import dataclasses

from gptwo.cli.output import add_json, print_json
from gptwo.config import PRESETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The per-layer table of a size or a checkpoint, by formula: no weights are read or allocated."
    )
    parser.add_argument(
        "model", metavar="MODEL", help=f"a size ({', '.join(PRESETS)}) or a checkpoint folder"
    )
    parser.add_argument(
        "--tokens", type=int, help="sequence length T for attention's FLOPs (default: the context)"
    )
    add_json(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from gptwo.costs import cost_table

    name = arguments.model
    if name in PRESETS:
        config = PRESETS[name]
    else:
        from gptwo.checkpoint.released_config import read_config
        from gptwo.checkpoint.resolve import resolve_model

        config = read_config(resolve_model(name))
    table = cost_table(config, tokens=arguments.tokens)
    if arguments.json:
        print_json({"model": name, "config": dataclasses.asdict(config), **dataclasses.asdict(table)})
        return 0
    print(
        f"{name}: L={config.n_layer} H={config.n_head} D={config.n_embd} F={config.mlp_width} "
        f"C={config.context} V={config.vocab_size}; FLOPs per token are the forward pass's matrix products, "
        f"mean over T={table.tokens} (2 per multiply-add); bytes are fp32's"
    )
    width = max(len(row.name) for row in table.rows)
    print(f"{'name':{width}}  {'shape':>16}  {'parameters':>14}  {'FLOPs/token':>14}  {'bytes':>14}")
    for row in table.rows:
        shape = "×".join(map(str, row.shape))
        print(
            f"{row.name:{width}}  {shape:>16}  {row.parameters:14,}  {row.flops_per_token:14,}  {row.bytes:14,}"
        )
    tied = f"{'total (head tied to E)':{width}}  {'':>16}"
    print(f"{tied}  {table.parameters:14,}  {table.flops_per_token:14,}  {table.bytes:14,}")
    print(f"{'total if untied':{width}}  {'':>16}  {table.untied_parameters:14,}")
    return 0
