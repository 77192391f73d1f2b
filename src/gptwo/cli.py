"""The command ``gptwo``: parses, picks a room, calls it. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import shlex
import sys
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gptwo.base.errors import ConfigError, DataError, GptwoError
from gptwo.config import PRESETS, TrainConfig

if typing.TYPE_CHECKING:
    from gptwo.train.distributed import World
    from gptwo.train.observer import TrainResult

USER_ERROR = 2
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """argparse with this project's errors: one line, then exit code 2."""

    def error(self, message: str) -> NoReturn:
        print(f"UsageError: {' '.join(message.split())}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(USER_ERROR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 2 a mistake of the user's (one line on stderr), 130 interrupted."""
    # GNU OpenMP's threads spin while they wait for each other, long enough that a second busy process on the same cores
    # slows both tenfold. A short spin costs nothing on a quiet machine. Read when torch loads it; the user's own wins.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character is told its number: no reason to end.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            parsed = build_parser().parse_args(arguments)
        finally:
            # --help ends the process here: a reader who has gone must show now, not in Python's own last flush.
            sys.stdout.flush()
        command: Callable[[argparse.Namespace], int] = parsed.command
        code = command(parsed)
        sys.stdout.flush()
        return code
    except GptwoError as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print(
            "OutOfMemory: this needs more memory than there is; "
            "choose a smaller model, --batch-tokens, --micro-batch, --num or prompt",
            file=sys.stderr,
        )
        return USER_ERROR
    except BrokenPipeError:
        # Whoever read our output has seen enough (`gptwo info gpt2 | head`).
        _abandon_stdout()
        return 0
    except OSError as error:
        # The rooms say what they were doing when the disk refused; this is for what they did not foresee.
        where = f"{error.filename}: " if error.filename else ""
        print(f"StorageError: {where}{error.strerror or error}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _abandon_stdout()
        return USER_ERROR


def _abandon_stdout() -> None:
    """Keep Python's own flush at the end from failing a second time."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends


def _is_out_of_memory(error: Exception) -> bool:
    # torch's allocators raise a RuntimeError: on the CPU a plain one, with these words.
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; ``docs/cli.md`` is generated from it."""
    from gptwo import __version__

    parser = _Parser(
        prog="gptwo", description="GPT-2 whole: train it on your text, write with it, look inside."
    )
    parser.add_argument("--version", action="version", version=f"gptwo {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(
        commands.add_parser("demo", help="text → tokenizer → trained model → writing, in a few minutes")
    )
    _add_prepare(commands.add_parser("prepare", help="turn text into checksummed token shards"))
    _add_train(commands.add_parser("train", help="train a GPT-2 on prepared text"))
    _add_finetune(
        commands.add_parser("finetune", help="teach a model from examples, whole or with an adapter")
    )
    _add_merge(commands.add_parser("merge", help="make one checkpoint of an adapter and its base"))
    _add_generate(commands.add_parser("generate", help="write with a model"))
    _add_eval(commands.add_parser("eval", help="measure a model on a text or a task file"))
    _add_info(commands.add_parser("info", help="parameters, FLOPs and bytes of a size or a checkpoint"))
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead (docs/json.md)")


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False))


# --- info ---------------------------------------------------------------------------------------------------------


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The per-layer table of a size or a checkpoint, by formula: no weights are read or allocated."
    )
    parser.add_argument(
        "model", metavar="MODEL", help=f"a size ({', '.join(PRESETS)}) or a checkpoint folder"
    )
    parser.add_argument(
        "--tokens", type=int, help="sequence length T for attention's FLOPs (default: the context)"
    )
    _add_json(parser)
    parser.set_defaults(command=_info)


def _info(arguments: argparse.Namespace) -> int:
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
        _print_json({"model": name, "config": dataclasses.asdict(config), **dataclasses.asdict(table)})
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


# --- prepare ------------------------------------------------------------------------------------------------------


def _add_prepare(parser: argparse.ArgumentParser) -> None:
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
    _add_json(parser)
    parser.set_defaults(command=_prepare)


def _tokenizer_of(name: str) -> str:
    """A run stands for the tokenizer of its checkpoints; every other name is the tokenizer room's to read."""
    from gptwo.checkpoint.resolve import resolve_model
    from gptwo.checkpoint.runs import is_run

    return str(resolve_model(name)) if is_run(Path(name)) else name


def _prepare(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from gptwo.data import prepare
    from gptwo.data.terminal import PrepareBar

    with PrepareBar(Console(stderr=True)) as bar:
        index = prepare(
            arguments.text,
            tokenizer=_tokenizer_of(arguments.tokenizer),
            out=Path(arguments.out),
            vocab_size=arguments.vocab_size,
            val_fraction=arguments.val_fraction,
            text_field=arguments.text_field,
            force=arguments.force,
            progress=bar.update,
            stdin=sys.stdin.buffer,
        )
    if arguments.json:
        _print_json({"folder": str(index.folder), **json.loads(index.to_json())})
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


# --- train --------------------------------------------------------------------------------------------------------


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a GPT-2. Every setting is a flag here and a key of the TOML file that --config names."
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings; flags win over it")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest whole checkpoint of --out"
    )
    _add_settings(parser, TrainConfig)
    _add_json(parser)
    parser.set_defaults(command=_train)


def _add_settings(
    parser: argparse.ArgumentParser, settings: type[TrainConfig], *, without: Collection[str] = ()
) -> None:
    """A flag for each setting, of its type and with its help; one that is not given is not in the namespace."""
    hints = typing.get_type_hints(settings)
    for setting in dataclasses.fields(settings):
        if setting.name in without:
            continue
        flag = "--" + setting.name.replace("_", "-")
        default = "" if setting.default in (None, dataclasses.MISSING) else f" (default: {setting.default!r})"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": setting.metadata["help"] + default}
        hint = hints[setting.name]
        kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
        if kinds == [bool]:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(hint) is typing.Literal:
            options["choices"] = kinds
        elif typing.get_origin(hint) is tuple:
            options |= {"nargs": "+", "action": "extend", "metavar": "FILE"}
        else:
            options |= {
                "type": kinds[0],
                "metavar": {int: "N", float: "X", str: setting.name.upper()}[kinds[0]],
            }
        parser.add_argument(flag, **options)


def _train(arguments: argparse.Namespace) -> int:
    from gptwo.train.distributed import joined_world

    with joined_world() as world:
        return _train_on(world, arguments)


def _train_on(world: World, arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from gptwo.train.loop import train
    from gptwo.train.terminal import TerminalObserver

    # When torchrun starts a run again that it had begun, nobody is there to add --resume.
    resume = arguments.resume or world.has_begun()
    config = _settings(arguments, TrainConfig, "gptwo train", resume=resume, world=world)
    observer = TerminalObserver(Console(stderr=True))
    try:
        result = train(config, resume=resume, observer=observer, world=world)
    finally:
        observer.close()
    if not world.writes:
        return 0
    if arguments.json:
        _print_json(_run_json(result))
    return _end_of_run(result, "gptwo train", quiet=arguments.json, world=world)


_Settings = typing.TypeVar("_Settings", bound=TrainConfig)


def _settings(
    arguments: argparse.Namespace, kind: type[_Settings], command: str, *, resume: bool, world: World
) -> _Settings:
    """The settings of a run: flags over the file of --config, and to resume, over those that the run has kept.

    Rank 0 joins them, and the others have them from it.
    """
    joined = _joined_settings(arguments, kind, resume=resume) if world.writes else None
    return kind.from_mapping(world.share(joined), where=arguments.config or command)


def _joined_settings(
    arguments: argparse.Namespace, kind: type[TrainConfig], *, resume: bool
) -> dict[str, Any]:
    from gptwo.train.run_folder import read_toml, resumed_settings

    names = {setting.name for setting in dataclasses.fields(kind)}
    flags = {name: value for name, value in vars(arguments).items() if name in names}
    settings = {**read_toml(Path(arguments.config)), **flags} if arguments.config else flags
    if resume:
        if "out" not in settings:
            raise ConfigError("--resume needs --out RUN: the run to go on with")
        settings = resumed_settings(settings["out"], settings, kind)
    return settings


def _run_json(result: TrainResult) -> dict[str, Any]:
    return {
        "run": str(result.run),
        "checkpoint": str(result.checkpoint),
        "step": result.step,
        "stopped_by": result.stopped_by,
        "evaluation": dataclasses.asdict(result.evaluation) if result.evaluation else None,
    }


def _end_of_run(result: TrainResult, command: str, *, quiet: bool, world: World) -> int:
    """Say what a run leaves and how to go on with it; the exit code."""
    run = shlex.quote(str(result.run))
    if result.stopped_by:
        print(
            f"{result.stopped_by}: saved step {result.step}; go on with: {command} --out {run} --resume",
            file=sys.stderr,
        )
        # torchrun would start again what ends with another code than 0.
        return INTERRUPTED if world.launch is None else 0
    if not quiet:
        print(f"{result.checkpoint}\nwrite with it: gptwo generate {run} --prompt TEXT")
    return 0


# --- finetune and merge -------------------------------------------------------------------------------------------


def _add_finetune(parser: argparse.ArgumentParser) -> None:
    from gptwo.train.finetune_config import SHAPE, FinetuneConfig

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
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings; flags win over it")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest whole checkpoint of --out"
    )
    _add_settings(parser, FinetuneConfig, without={"model", *SHAPE})
    _add_json(parser)
    parser.set_defaults(command=_finetune)


def _finetune(arguments: argparse.Namespace) -> int:
    from gptwo.train.distributed import joined_world

    with joined_world() as world:
        return _finetune_on(world, arguments)


def _finetune_on(world: World, arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from gptwo.train.finetune import base_name, finetune
    from gptwo.train.finetune_config import FinetuneConfig
    from gptwo.train.terminal import TerminalObserver

    if "model" in arguments:
        arguments.model = base_name(arguments.model)
    resume = arguments.resume or world.has_begun()
    config = _settings(arguments, FinetuneConfig, "gptwo finetune", resume=resume, world=world)
    observer = TerminalObserver(Console(stderr=True))
    try:
        result = finetune(config, resume=resume, observer=observer, world=world)
    finally:
        observer.close()
    if not world.writes:
        return 0
    evaluation = result.run.evaluation
    if arguments.json:
        _print_json({**_run_json(result.run), "base_nats_per_token": result.base_nats_per_token})
    elif evaluation is not None and result.base_nats_per_token is not None:
        print(
            f"loss on the held-out answers: {result.base_nats_per_token:.4f} nats per token before, "
            f"{evaluation.nats_per_token:.4f} after {result.run.step} steps"
        )
    return _end_of_run(result.run, "gptwo finetune", quiet=arguments.json, world=world)


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Add an adapter to its base: a checkpoint like any other, without the adapter's cost."
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="an adapter's folder, or a run of gptwo finetune")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--base", help="where the base is now (default: where the adapter says)")
    _add_json(parser)
    parser.set_defaults(command=_merge)


def _merge(arguments: argparse.Namespace) -> int:
    from gptwo.checkpoint.adapter import merge

    merged = merge(arguments.adapter, Path(arguments.out), base=arguments.base)
    if arguments.json:
        _print_json({"folder": str(merged)})
    else:
        print(f"{merged}\nwrite with it: gptwo generate {shlex.quote(str(merged))} --prompt TEXT")
    return 0


# --- generate -----------------------------------------------------------------------------------------------------


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.description = "Go on from a prompt. The prompt is printed too; --json keeps the two apart."
    parser.add_argument("model", metavar="MODEL", help="a checkpoint folder, a run, or a hub id")
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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--dtype", help="fp32, bf16, fp16 or fp64 (default: as stored)")
    _add_json(parser)
    parser.set_defaults(command=_generate)


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


def _generate(arguments: argparse.Namespace) -> int:
    import gptwo

    if arguments.num > _MOST_TEXTS:
        raise ConfigError(
            f"num={arguments.num} is not possible; expected at most {_MOST_TEXTS} texts at once"
        )
    model = gptwo.load(arguments.model, device=arguments.device, dtype=arguments.dtype)
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
            _print_json(
                {"model": arguments.model, "prompt": prompt, "texts": [g.to_json() for g in generations]}
            )
        for number, generation in enumerate(generations if not arguments.json else (), start=1):
            if arguments.num > 1:
                print(f"--- {number} of {arguments.num}, seed {generation.seed}")
            print(shown + generation.text)
    for notice in sorted({generation.notice for generation in generations if generation.notice}):
        print(f"note: {notice}", file=sys.stderr)
    return 0


# --- eval ---------------------------------------------------------------------------------------------------------


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.description = "Loss, perplexity and bits per byte over a whole text, or accuracy on a task file."
    parser.add_argument("model", metavar="MODEL", help="a checkpoint folder, a run, or a hub id")
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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--dtype", help="fp32, bf16, fp16 or fp64 (default: as stored)")
    _add_json(parser)
    parser.set_defaults(command=_eval)


def _eval(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    import gptwo
    from gptwo.evaluation.terminal import EvaluationBar

    model = gptwo.load(arguments.model, device=arguments.device, dtype=arguments.dtype)
    with EvaluationBar(
        Console(stderr=True), "tokens" if arguments.task == "loss" else "continuations"
    ) as bar:
        result = gptwo.evaluate(
            model,
            arguments.data,
            task=arguments.task,
            split=arguments.split,
            stride=arguments.stride,
            limit=arguments.limit,
            batch=arguments.batch,
            progress=bar.update,
        )
    if arguments.json:
        _print_json(
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


# --- demo ---------------------------------------------------------------------------------------------------------


def _add_demo(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    _add_json(parser)
    parser.set_defaults(command=_demo)


def _demo(arguments: argparse.Namespace) -> int:
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
        _print_json(result.to_json())
        return 0
    print(result.summary())
    return 0
