"""The command ``gptwo``: parses, picks a room, calls it. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from gptwo.base.errors import GptwoError
from gptwo.cli import (
    bench,
    demo,
    evaluate,
    explain,
    finetune,
    generate,
    info,
    merge,
    plan,
    prepare,
    quantize,
    serve,
    train,
)
from gptwo.cli.output import INTERRUPTED, USER_ERROR


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
    for name, add_arguments, purpose in (
        ("demo", demo.add_arguments, "text → tokenizer → trained model → writing, in a few minutes"),
        ("prepare", prepare.add_arguments, "turn text into checksummed token shards"),
        ("train", train.add_arguments, "train a GPT-2 on prepared text"),
        ("finetune", finetune.add_arguments, "teach a model from examples, whole or with an adapter"),
        ("merge", merge.add_arguments, "make one checkpoint of an adapter and its base"),
        ("quantize", quantize.add_arguments, "round a model's weights to 8 or 4 bits"),
        ("generate", generate.add_arguments, "write with a model"),
        ("serve", serve.add_arguments, "a model over HTTP, for OpenAI's clients"),
        ("explain", explain.add_arguments, "look inside a model: its page in your browser"),
        ("eval", evaluate.add_arguments, "measure a model on a text or a task file"),
        ("plan", plan.add_arguments, "what a run will cost, before it begins"),
        ("bench", bench.add_arguments, "what a model costs on this machine, beside what the machine allows"),
        ("info", info.add_arguments, "parameters, FLOPs and bytes of a size or a checkpoint"),
    ):
        add_arguments(commands.add_parser(name, help=purpose))
    return parser
