"""``gptwo generate``: a model goes on from a prompt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gptwo.base.errors import ConfigError, DataError
from gptwo.cli.model import add_engine, add_model, load
from gptwo.cli.output import add_json, print_json

if TYPE_CHECKING:
    from gptwo.infer.api import LanguageModel
    from gptwo.infer.settings import WritingSettings
    from gptwo.infer.task import Generation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Go on from a prompt. The prompt is printed too; --json keeps the two apart."
    add_model(parser)
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", help="text to go on from; - reads standard input")
    prompts.add_argument(
        "--prompts",
        metavar="FILE",
        help="a text for each prompt of a file: each line, empty ones passed over, or "
        '"prompt" of each object of a .jsonl; - reads standard input',
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=8,
        metavar="N",
        help="how many of --prompts are written side by side (default: 8)",
    )
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
    parser.add_argument(
        "--presence-penalty",
        type=float,
        default=0.0,
        metavar="X",
        help="taken from the logit of every token that was written (default: 0)",
    )
    parser.add_argument(
        "--frequency-penalty",
        type=float,
        default=0.0,
        metavar="X",
        help="taken from the logit of a token each time that it was written (default: 0)",
    )
    parser.add_argument(
        "--logit-bias",
        action="append",
        type=_id_and_bias,
        metavar="ID=X",
        help="add X to the logit of a token; may be given several times",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="the same seed, the same text; text I of several draws with N + I - 1",
    )
    parser.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be given several times"
    )
    parser.add_argument("--num", type=int, default=1, metavar="N", help="how many texts (default: 1)")
    parser.add_argument(
        "--slide", action="store_true", help="past the context, go on from its last half instead of ending"
    )
    parser.add_argument(
        "--lookup",
        action="store_true",
        help="guess from repetitions in the text: faster, the same output; not on every engine",
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


def _id_and_bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not possible; expected ID=X, as 13=-100") from None


def _settings(arguments: argparse.Namespace) -> WritingSettings:
    return {
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.temperature,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "min_p": arguments.min_p,
        "repetition_penalty": arguments.repetition_penalty,
        "presence_penalty": arguments.presence_penalty,
        "frequency_penalty": arguments.frequency_penalty,
        "logit_bias": dict(arguments.logit_bias) if arguments.logit_bias else None,
        "seed": arguments.seed,
        "stop": arguments.stop,
        "slide": arguments.slide,
        "lookup": arguments.lookup,
    }


# They are written side by side, and each takes memory for its keys and values.
_MOST_TEXTS = 10_000


def run(arguments: argparse.Namespace) -> int:
    if arguments.num > _MOST_TEXTS:
        raise ConfigError(
            f"num={arguments.num} is not possible; expected at most {_MOST_TEXTS} texts at once"
        )
    if arguments.prompts is not None and arguments.num != 1:
        raise ConfigError(f"num={arguments.num} is not possible with --prompts; expected one text a prompt")
    model = load(arguments)
    generations = (
        _of_file(model, arguments) if arguments.prompts is not None else _of_prompt(model, arguments)
    )
    notices = {generation.notice for generation in generations if generation.notice}
    # Who asked for another device knows why.
    if model.engine_reason and arguments.device in ("auto", "cpu"):
        notices.add(f"it ran on torch: {model.engine_reason}")
    for notice in sorted(notices):
        print(f"note: {notice}", file=sys.stderr)
    return 0


def _of_prompt(model: LanguageModel, arguments: argparse.Namespace) -> list[Generation]:
    prompt = _standard_input() if arguments.prompt == "-" else arguments.prompt
    (given,), (shown,) = _given_and_shown(model, arguments, [prompt])
    if arguments.num == 1 and arguments.stream and not arguments.json:
        pieces = model.stream(given, **_settings(arguments))
        print(shown, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        return [pieces.generation] if pieces.generation else []
    generations = model.generate_many(given, num=arguments.num, **_settings(arguments))
    if arguments.json:
        print_json({"model": arguments.model, "prompt": prompt, "texts": [g.to_json() for g in generations]})
    else:
        _print([shown] * len(generations), generations)
    return generations


def _of_file(model: LanguageModel, arguments: argparse.Namespace) -> list[Generation]:
    from gptwo.data.prompts import read_prompts

    prompts = read_prompts(arguments.prompts, stdin=sys.stdin.buffer)
    given, shown = _given_and_shown(model, arguments, prompts)
    generations = model.generate_batch(given, batch=arguments.batch, **_settings(arguments))
    if arguments.json:
        texts = [{"prompt": prompt, **g.to_json()} for prompt, g in zip(prompts, generations, strict=True)]
        print_json({"model": arguments.model, "texts": texts})
    else:
        _print(shown, generations)
    return generations


def _given_and_shown(
    model: LanguageModel, arguments: argparse.Namespace, prompts: list[str]
) -> tuple[Sequence[str | list[int]], list[str]]:
    """What the model is given for each prompt, and what is printed before its text: it, or in a chat nothing."""
    if not arguments.chat:
        return prompts, prompts
    if "chat_template" not in model.tokenizer.config:
        raise ConfigError(
            f"{arguments.model} has no chat template; expected a model fine-tuned on messages; leave out --chat"
        )
    chats = [model.tokenizer.render_chat([{"role": "user", "content": prompt}]) for prompt in prompts]
    return chats, [""] * len(prompts)


def _print(prompts: Sequence[str], generations: Sequence[Generation]) -> None:
    for number, (prompt, generation) in enumerate(zip(prompts, generations, strict=True), start=1):
        if len(generations) > 1:
            print(f"--- {number} of {len(generations)}, seed {generation.seed}")
        print(prompt + generation.text)
