"""Writes docs/cli.md from the command's own parser; with --check, says whether the file is stale (exit code 1)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from gptwo.cli import build_parser

TARGET = Path(__file__).parents[1] / "docs" / "cli.md"
_LINE_WIDTH = 100

_INTRODUCTION = """\
# Command line

Written by `make docs` from the parser of `gptwo`, in the parser's order; do not edit it by hand.

- What a command makes or finds goes to standard output. Progress, notes and errors go to standard error.
- With `--json` standard output is one JSON object: [json.md](json.md).
- Exit code 0: done. 2: something that you can mend, in one line `KindOfError: got, expected, what to do`.
  130: interrupted; `gptwo train` says what it saved. 1: a bug of ours, with a traceback.
- `python -m gptwo` is the same command.
"""


def reference() -> str:
    """The text of docs/cli.md. It depends on the parser alone: no terminal, no Python version, no machine."""
    parser = build_parser()
    return "\n".join([_INTRODUCTION, *_section(parser), *_commands(parser)])


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _section(command)


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {parser.prog}\n"
    yield f"{parser.description}\n"
    yield f"```text\n{_usage(parser)}\n```\n"
    rows = [row for action in parser._actions for row in _rows(parser, action)]
    yield "| Argument | Meaning |\n|---|---|"
    yield from rows
    yield ""


def _usage(parser: argparse.ArgumentParser) -> str:
    """The program, what must be given, and what may be: broken into lines of a fixed width."""
    optional = [action for action in parser._actions if action.option_strings and not action.required]
    parts = [*(["[OPTIONS]"] if optional else [])]
    parts += [_named(action) for action in parser._actions if action.option_strings and action.required]
    for group in parser._mutually_exclusive_groups:
        if group.required:
            parts.append(f"({' | '.join(map(_named, group._group_actions))})")
    parts += [_positional(action) for action in parser._actions if not action.option_strings]
    lines = [parser.prog]
    for part in parts:
        if len(lines[-1]) + 1 + len(part) > _LINE_WIDTH:
            lines.append(" " * len(parser.prog))
        lines[-1] += f" {part}"
    return "\n".join(lines)


def _rows(parser: argparse.ArgumentParser, action: argparse.Action) -> Iterator[str]:
    if isinstance(action, argparse._SubParsersAction):
        for choice in action._choices_actions:
            anchor = f"{parser.prog} {choice.dest}".replace(" ", "-")
            yield f"| [`{choice.dest}`](#{anchor}) | {choice.help} |"
        return
    name = _named(action) if action.option_strings else _positional(action)
    required = " (required)" if action.option_strings and action.required else ""
    # Some versions of Python add this to the help of --flag, --no-flag.
    text = (action.help or "").removesuffix(" (default: %(default)s)")
    # argparse fills in %(default)s and the like when it prints; so must we.
    meaning = text % {**vars(action), "prog": parser.prog}
    yield f"| `{name}` | {meaning}{required} |".replace("\\", "\\\\")


def _named(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    if action.choices is not None:
        return f"{names} {{{','.join(map(str, action.choices))}}}"
    return f"{names} {action.metavar or action.dest.upper()}"


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return f"{name} [{name} ...]" if action.nargs == "+" else name


def main(arguments: list[str]) -> int:
    """Write the file, or with --check only compare; the exit code."""
    if arguments not in ([], ["--check"]):
        print(f"got {' '.join(arguments)}; expected nothing or --check", file=sys.stderr)
        return 2
    text = reference()
    if not arguments:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET.name} is stale: run `make docs` and commit it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
