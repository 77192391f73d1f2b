"""``gptwo bench``: a model on this machine, measured, and two such measurements compared."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptwo.base.cores import check_threads
from gptwo.base.errors import ConfigError, DataError, MissingExtraError, StorageError
from gptwo.cli.output import INTERRUPTED, print_json
from gptwo.config import PRESETS

# Of ``gptwo bench compare``: something is slower for certain.
SLOWER = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure a model on this machine, each figure beside what the machine allows (docs/guides/bench.md). "
        "`gptwo bench compare A.json B.json` holds two runs against each other: exit code 1 when something is slower "
        "in the second and the 95% intervals are apart."
    )
    parser.add_argument(
        "model",
        nargs="*",
        metavar="MODEL",
        help=f"a size with random weights ({', '.join(PRESETS)}; default: gpt2), a checkpoint folder or a run; "
        "or: compare A.json B.json",
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="LIST",
        help="cpu, cuda:0 …, with commas (default: those that are here)",
    )
    parser.add_argument(
        "--engine", default="native,torch", metavar="LIST", help="native, torch, with commas (default: both)"
    )
    parser.add_argument(
        "--dtype", metavar="LIST", help="with commas (default: fp32,int8 on the CPU and fp32,bf16 on a GPU)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: its physical cores)")
    parser.add_argument(
        "--quick", action="store_true", help="fewer cases and samples: a minute and a half for gpt2"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the record (docs/bench-schema.md); - prints it instead"
    )
    parser.add_argument("--html", metavar="FILE", help="write the report: one page with its plots")
    parser.add_argument("--png", metavar="DIR", help="write the plots of the report as DIR/NAME.png")
    parser.add_argument(
        "--gpu",
        default="t4",
        metavar="NAME",
        help="the GPU to predict where none is measured, one that `gptwo plan` knows (default: t4)",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    names = arguments.model or ["gpt2"]
    if names[0] == "compare":
        return _compare(names[1:], arguments.json)
    if len(names) > 1:
        raise ConfigError(
            f"got {len(names)} models ({' '.join(names)}); expected one, or: compare A.json B.json"
        )
    check_threads(arguments.threads)
    from rich.console import Console
    from rich.progress import MofNCompleteColumn

    from gptwo.base.progress import progress_bar
    from gptwo.perf.bench import bench, was_stopped
    from gptwo.perf.measuring import Settings
    from gptwo.perf.record import write_json, write_text
    from gptwo.perf.summary import summary

    _require_outputs(arguments)
    settings = Settings(
        model=names[0],
        devices=_names(arguments.device),
        engines=_names(arguments.engine),
        dtypes=_names(arguments.dtype or ""),
        threads=arguments.threads,
        quick=arguments.quick,
        gpu=arguments.gpu,
    )
    console, began = Console(stderr=True), time.perf_counter()
    with progress_bar(console, "starting", MofNCompleteColumn()) as update:

        def progress(done: int, total: int, what: str) -> None:
            update(done, total, what)
            if not console.is_terminal:
                elapsed = time.perf_counter() - began
                print(f"[{done + 1}/{total}] {elapsed:4.0f} s  {what}", file=sys.stderr, flush=True)

        with _terminated_as_interrupted():
            record = bench(settings, progress=progress)
    if arguments.json not in (None, "-"):
        write_json(record, Path(arguments.json))
    if arguments.html is not None:
        from gptwo.perf.report import html

        write_text(html(record), Path(arguments.html))
    if arguments.png is not None:
        from gptwo.perf.report import pngs

        pngs(record, Path(arguments.png))
    if arguments.json == "-":
        print_json(record)
    else:
        print(summary(record))
        for written in (arguments.json, arguments.html, arguments.png):
            if written is not None:
                print(f"written: {written}")
    return INTERRUPTED if was_stopped(record) else 0


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """While entered, SIGTERM is what Ctrl-C is: the record of what was measured until then is written."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows no handlers here
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _require_outputs(arguments: argparse.Namespace) -> None:
    """What the files need and where they go, before minutes of measuring and not after them."""
    from gptwo.perf.record import require_writable

    for file in (arguments.json, arguments.html):
        if file not in (None, "-"):
            require_writable(Path(file))
    if arguments.png is not None:
        try:
            Path(arguments.png).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make {arguments.png}: {error.strerror or error}; give --png another path"
            ) from error
    if (arguments.html or arguments.png) and importlib.util.find_spec("jinja2") is None:
        raise MissingExtraError(
            "the report needs jinja2; install it with: pip install 'gptwo[serve]', or use --json"
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _compare(files: list[str], out: str | None) -> int:
    from gptwo.perf.compare import compare
    from gptwo.perf.record import read_record, write_json

    if len(files) != 2:
        raise ConfigError(
            f"got {len(files)} files to compare; expected two: gptwo bench compare A.json B.json"
        )
    records = [read_record(Path(file)) for file in files]
    try:
        found = compare(*records)
    except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        # What ``read_record`` did not look for.
        raise DataError(
            f"{files[0]} and {files[1]} cannot be compared ({error!r}); expected whole JSONs of gptwo bench"
        ) from error
    if out == "-":
        print_json(found.to_json())
    else:
        if out is not None:
            write_json(found.to_json(), Path(out))
        print(found.text())
    return SLOWER if found.slower else 0
