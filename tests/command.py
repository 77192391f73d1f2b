"""The command line as a test meets it: in this process, which is quick, or as a process of its own."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from gptwo.cli import main

TEXT = "The quick brown fox jumps over the lazy dog; the dog sleeps on. " * 60
_TINY = """
    --n-layer 1 --n-head 2 --n-embd 16 --context 16 --batch-tokens 64 --micro-batch 3 --steps 4 --warmup-steps 1
    --eval-every 2 --save-every 2 --log-every 1 --sample-tokens 4 --device cpu
"""
TINY = _TINY.split()


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def error_line(self) -> str:
        """The one line that a user's mistake may print, and nothing else."""
        assert self.code == 2, f"exit code {self.code}; stderr:\n{self.err}"
        assert self.out == ""
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, f"more than one line:\n{self.err}"
        assert re.match(r"[A-Z]\w+: \S", self.err), self.err
        assert "Traceback" not in self.err
        return self.err[:-1]


def command(*arguments: object, stdin: bytes = b"") -> Outcome:
    """``gptwo ARGUMENTS`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), patch("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin))):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse ends so, for --help and for what it does not understand
            code = end.code if isinstance(end.code, int) else 1
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*arguments: object, stdin: bytes = b"") -> Outcome:
    """``command``, which must succeed."""
    outcome = command(*arguments, stdin=stdin)
    assert outcome.code == 0, outcome.err
    return outcome


def process(*arguments: object, stdin: bytes = b"", **environment: str) -> Outcome:
    """``python -m gptwo ARGUMENTS`` as a user runs it."""
    completed = subprocess.run(
        command_line(*arguments),
        input=stdin,
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )
    return Outcome(
        completed.returncode, completed.stdout.decode("utf-8"), completed.stderr.decode("utf-8", "replace")
    )


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "gptwo", *map(str, arguments)]


def prepared(folder: Path, *, tokenizer: str = "byte", text: str = TEXT) -> Path:
    """Prepared data in ``folder``/data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(text, encoding="utf-8")
    done("prepare", folder / "text.txt", "--tokenizer", tokenizer, "--out", folder / "data")
    return folder / "data"


def key_paths(value: Any, path: str = "") -> set[str]:
    """Every leaf of a JSON value as docs/json.md writes it: ``a.b``, ``rows[].name``; splits' names are ``S``."""
    if isinstance(value, dict):
        paths: set[str] = set()
        for key, inner in value.items():
            name = "S" if path == "splits" else key
            paths |= key_paths(inner, f"{path}.{name}" if path else name)
        return paths
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return set().union(*(key_paths(inner, f"{path}[]") for inner in value))
    return {path}


def documented_keys(name: str) -> set[str]:
    """The keys in docs/json.md of the command ``name``; an object's own row is left out for those of its keys."""
    page = (Path(__file__).parents[1] / "docs" / "json.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## `gptwo {name}`\n(.*?)(?=^## |\Z)", page, flags=re.M | re.S)
    keys = set(re.findall(r"^\| `([^`]+)` \|", section, flags=re.M))
    assert keys, f"docs/json.md has no keys of {name}"
    return {key for key in keys if not any(k.startswith((f"{key}.", f"{key}[].")) for k in keys)}
