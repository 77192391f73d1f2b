"""The folder of a run: ``config.toml``, ``metrics.jsonl``, ``loss.png``, ``samples.txt``, ``checkpoints/step-…``."""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from gptwo.base.errors import CheckpointError, ConfigError, StorageError
from gptwo.base.lock import FolderLock
from gptwo.checkpoint.runs import holds_checkpoints, newest_whole
from gptwo.config import TrainConfig

CONFIG_NAME = "config.toml"
METRICS_NAME = "metrics.jsonl"
PLOT_NAME = "loss.png"
SAMPLES_NAME = "samples.txt"
BEST_NAME = "best"

# What a resumed run may set anew: everything else decides the weights, and so belongs to the run. The data may have
# moved; that it is the same is checked by its tokens.
_MAY_CHANGE = frozenset(
    {
        "out",
        "data",
        "steps",
        "epochs",
        "device",
        "eval_every",
        "eval_tokens",
        "save_every",
        "keep_last",
        "log_every",
        "force",
    }
    | {"sample_prompt", "sample_tokens", "track", "parallel", "compile"}
)
# A setting that every run of `gptwo finetune` keeps and no run of `gptwo train` has.
_LEARNS_ANSWERS = "val_fraction"
# What a run was that is older than these settings, and so has none of them in its file.
_BEFORE_RECIPES = {"optimizer": "adamw", "schedule": "cosine"}


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file. Raises ``ConfigError`` when it is missing or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no settings file {str(path)!r}; expected a TOML file") from error
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}; expected a TOML file") from error
    except ValueError as error:  # not TOML, not UTF-8, or a path that cannot be
        raise ConfigError(f"{str(path)!r} is not TOML: {error}") from error


def resumed_settings(
    out: str, flags: Mapping[str, Any], kind: type[TrainConfig] = TrainConfig
) -> dict[str, Any]:
    """The settings kept in a run folder, with those flags that a resumed run may change.

    ``kind`` is the class of the run's settings. Raises ``ConfigError`` when there is no run, or when a flag would
    change what the run has computed so far.
    """
    path = Path(out) / CONFIG_NAME
    if not path.exists():
        remedy = "put it back, or start another run with another --out"
        if not holds_checkpoints(Path(out)):
            remedy = "leave out --resume to start one"
        raise ConfigError(f"there is no run to resume in {out!r}: it has no {CONFIG_NAME}; {remedy}")
    settings = {**_BEFORE_RECIPES, **read_toml(path)}
    command, other = ("finetune", "train") if _LEARNS_ANSWERS in settings else ("train", "finetune")
    if (command == "finetune") != (_LEARNS_ANSWERS in kind.__dataclass_fields__):
        raise ConfigError(
            f"the run in {out!r} was begun with gptwo {command}, not gptwo {other}; "
            f"go on with: gptwo {command} --out {shlex.quote(out)} --resume"
        )
    may_change = _MAY_CHANGE
    if settings.get("lora_rank") is not None:
        may_change |= {"model"}  # the base may have moved; that it is the same is checked by its weights
    if "epochs" in flags:
        settings.pop("steps", None)  # they were those that the epochs before came to
    for name, value in flags.items():
        # The kept dtype is what "auto" was on the first machine. A name that is no setting is reported as such later.
        as_before = value in (settings.get(name), "auto") or name not in kind.__dataclass_fields__
        if name not in may_change and not as_before:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{flag} {value} differs from this run's {settings.get(name)}; "
                "leave it out to resume, or start another run with another --out"
            )
    # "auto" stands for what it was resolved to when the run began; only the device may be another now.
    return {
        **settings,
        **{name: value for name, value in flags.items() if value != "auto" or name == "device"},
    }


def starting_point(run: Path, *, resume: bool) -> Path | None:
    """The checkpoint to go on from; None for a fresh start. An existing run is neither lost nor silently begun anew."""
    if not holds_checkpoints(run):
        return None
    if not resume:
        raise ConfigError(f"{str(run)!r} holds a run already; add --resume to go on, or choose another --out")
    newest = newest_whole(run)
    if newest is None:
        raise CheckpointError(f"no checkpoint in {str(run)!r} is whole; start a new run with another --out")
    return newest


def require_place(run: Path) -> None:
    """``StorageError`` where there can be no folder ``run``: a file is in its place, or on the way there."""
    nearest = next(path for path in (run.absolute(), *run.absolute().parents) if path.exists())
    if not nearest.is_dir():
        problem = "File exists" if nearest == run.absolute() else "Not a directory"
        raise StorageError(f"cannot write in {str(run)!r}: {problem}; choose another --out")


@contextmanager
def run_folder(config: TrainConfig) -> Iterator[Path]:
    """The folder of the run, made if need be, held by this process alone, its resolved configuration in it.

    Raises ``StorageError`` when the disk refuses, and ``ConfigError`` when another process trains in it.
    """
    run = Path(config.out)
    with _reported(run):
        run.mkdir(parents=True, exist_ok=True)
        try:
            lock = FolderLock(run)
        except BlockingIOError:
            raise ConfigError(
                f"another process is training in {str(run)!r}; wait for it, or choose another --out"
            ) from None
    try:
        with _reported(run):
            partial = run / f"{CONFIG_NAME}.partial"
            with partial.open("w", encoding="utf-8") as file:
                file.write(tomli_w.dumps(config.to_mapping()))
                file.flush()
                os.fsync(file.fileno())  # without it no checkpoint of the run could be resumed
            partial.replace(run / CONFIG_NAME)
        yield run
    finally:
        lock.release()


@contextmanager
def _reported(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write in {str(run)!r}: {error.strerror}; choose another --out") from error
