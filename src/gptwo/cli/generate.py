"""``gptwo generate``: a model goes on from a prompt."""

from __future__ import annotations

import argparse
import sys

from gptwo.base.errors import ConfigError, DataError
from gptwo.cli.model import add_engine, add_model, load
from gptwo.cli.output import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Go on from a prompt. The prompt is printed too; --json keeps the two apart."
    add_model(parser)
    parser.add_argument("--prompt", required=True, help="text to go on from; - reads standard input")
    parser.add_argument(
        "--chat", action="store_true", help="the prompt is a user's message, and the answer is printed alone"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help="most tokens to write (default: 128)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="X",
        help="below 1 sharper, above 1 bolder, 0 greedy (default: 1)",
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K most probable tokens")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the fewest tokens that hold probability P"
    )
    parser.add_argument(
        "--min-p", type=float, metavar="P", help="draw from tokens at least P times as probable as the first"
    )
    parser.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1, repeat less (default: 1)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed, the same text")
    parser.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be given several times"
    )
    parser.add_argument("--num", type=int, default=1, metavar="N", help="how many texts (default: 1)")
    parser.add_argument(
        "--slide", action="store_true", help="past the context, go on from its last half instead of ending"
    )
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="print text as it comes: the default, for one text without --json",
    )
    add_engine(parser)
    add_json(parser)
    parser.set_defaults(command=run)


def _standard_input() -> str:
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input: byte 0x{content[error.start]:02x} at offset {error.start} is not UTF-8; "
            "convert it, e.g. with `iconv -t UTF-8`"
        ) from None


_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")

# They are written side by side, and each takes memory for its keys and values.
_MOST_TEXTS = 10_000


def run(arguments: argparse.Namespace) -> int:
    if arguments.num > _MOST_TEXTS:
        raise ConfigError(
            f"num={arguments.num} is not possible; expected at most {_MOST_TEXTS} texts at once"
        )
    model = load(arguments)
    prompt = _standard_input() if arguments.prompt == "-" else arguments.prompt
    settings = {name: getattr(arguments, name) for name in (*_SAMPLING, "max_new_tokens", "stop", "slide")}
    given: str | list[int] = prompt
    shown = prompt
    if arguments.chat:
        if "chat_template" not in model.tokenizer.config:
            raise ConfigError(
                f"{arguments.model} has no chat template; expected a model fine-tuned on messages; leave out --chat"
            )
        given, shown = model.tokenizer.render_chat([{"role": "user", "content": prompt}]), ""
    if arguments.num == 1 and arguments.stream and not arguments.json:
        pieces = model.stream(given, **settings)
        print(shown, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        generations = [pieces.generation] if pieces.generation else []
    else:
        generations = model.generate_many(given, num=arguments.num, **settings)
        if arguments.json:
            print_json(
                {"model": arguments.model, "prompt": prompt, "texts": [g.to_json() for g in generations]}
            )
        for number, generation in enumerate(generations if not arguments.json else (), start=1):
            if arguments.num > 1:
                print(f"--- {number} of {arguments.num}, seed {generation.seed}")
            print(shown + generation.text)
    for notice in sorted({generation.notice for generation in generations if generation.notice}):
        print(f"note: {notice}", file=sys.stderr)
    return 0
