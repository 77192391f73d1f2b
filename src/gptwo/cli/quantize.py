"""``gptwo quantize``: a model's weights in 8 or 4 bits, and what that cost."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from gptwo.cli.model import add_model
from gptwo.cli.output import add_json, print_json

if TYPE_CHECKING:
    from gptwo.evaluation.fidelity import Fidelity
    from gptwo.evaluation.loss import Text
    from gptwo.infer.api import LanguageModel
    from gptwo.infer.quantize import Quantized


# What --data measures; null without it.
_FIGURES = ("perplexity_before", "perplexity_after", "kl", "top1_agreement", "tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Round a model's matrices to 8 or 4 bits with a scale for each 32 weights, for the native CPU engine. "
        "With --data, measure what that costs."
    )
    add_model(parser)
    parser.add_argument("--to", required=True, choices=["int8", "int4"], help="bits of a weight")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace a model that is there")
    parser.add_argument(
        "--data",
        metavar="DIR|FILE",
        help="a prepared folder or a text file: run the model before and after over it",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N tokens of --data")
    add_json(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from gptwo.infer.quantize import quantize

    # What cannot be measured is refused before anything is written.
    measured = _readable(arguments) if arguments.data is not None else None
    quantized = quantize(arguments.model, to=arguments.to, out=Path(arguments.out), force=arguments.force)
    fidelity = _fidelity(*measured, quantized, arguments.limit) if measured is not None else None
    if arguments.json:
        print_json(
            {
                "model": arguments.model,
                "folder": str(quantized.folder),
                "dtype": quantized.dtype,
                "bytes_before": quantized.bytes_before,
                "bytes_after": quantized.bytes_after,
                "errors": quantized.errors,
                **(dataclasses.asdict(fidelity) if fidelity else dict.fromkeys(_FIGURES)),
            }
        )
        return 0
    share = quantized.bytes_after / quantized.bytes_before
    print(
        f"{quantized.folder}: weights in {quantized.dtype}, {quantized.bytes_after:,} bytes, "
        f"{share:.1%} of {quantized.bytes_before:,}"
    )
    width = max(map(len, quantized.errors))
    print("error of the weights, sqrt(Σ (w - ŵ)² / Σ w²):")
    for kind, error in quantized.errors.items():
        print(f"  {kind:{width}}  {error:.3%}")
    if fidelity:
        change = fidelity.perplexity_after / fidelity.perplexity_before - 1
        print(f"on {fidelity.tokens:,} tokens of {arguments.data}:")
        print(
            f"  perplexity {fidelity.perplexity_before:.4f} before, {fidelity.perplexity_after:.4f} after "
            f"({change:+.3%})"
        )
        print(f"  KL(before || after) {fidelity.kl:.5f} nats per token")
        print(f"  the same most probable token {fidelity.top1_agreement:.2%}")
    print(f"write with it: gptwo generate {shlex.quote(str(quantized.folder))} --prompt TEXT")
    return 0


def _readable(arguments: argparse.Namespace) -> tuple[LanguageModel, Text]:
    """The model before, on the engine that will run it after, and --data as it reads it."""
    import gptwo
    from gptwo.evaluation.loss import open_text
    from gptwo.infer.task import require_count

    if arguments.limit is not None:
        require_count("limit", arguments.limit)
    model = gptwo.load(arguments.model, engine="native")
    return model, open_text(model, Path(arguments.data))


def _fidelity(before: LanguageModel, text: Text, quantized: Quantized, limit: int | None) -> Fidelity:
    from rich.console import Console

    import gptwo
    from gptwo.evaluation.fidelity import compare
    from gptwo.evaluation.terminal import evaluation_bar

    after = gptwo.load(quantized.folder)
    with evaluation_bar(Console(stderr=True), "tokens") as progress:
        return compare(before, after, text, limit=limit, progress=progress)
