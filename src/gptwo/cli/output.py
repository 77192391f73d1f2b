"""What every command has of its output: the flag ``--json``, and the exit codes."""

from __future__ import annotations

import argparse
import json
from typing import Any

USER_ERROR = 2
INTERRUPTED = 130


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead (docs/json.md)")


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False))
