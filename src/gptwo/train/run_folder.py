"""The folder of a run: ``config.toml``, ``metrics.jsonl``, ``loss.png``, ``samples.txt``, ``checkpoints/step-…``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from gptwo.base.errors import ConfigError, StorageError
from gptwo.config import TrainConfig

CONFIG_NAME = "config.toml"
METRICS_NAME = "metrics.jsonl"
PLOT_NAME = "loss.png"
SAMPLES_NAME = "samples.txt"

# What a resumed run may set anew. Everything else decides the weights, and so belongs to the run.
_MAY_CHANGE = frozenset(
    {"out", "steps", "device", "eval_every", "eval_tokens", "save_every", "keep_last", "log_every"}
    | {"sample_prompt", "sample_tokens", "track"}
)


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


def resumed_settings(out: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings kept in a run folder, with those flags that a resumed run may change.

    Raises ``ConfigError`` when there is no run, or when a flag would change what the run has computed so far.
    """
    path = Path(out) / CONFIG_NAME
    if not path.exists():
        raise ConfigError(
            f"there is no run to resume in {out!r}: it has no {CONFIG_NAME}; leave out --resume to start one"
        )
    settings = read_toml(path)
    for name, value in flags.items():
        if name not in _MAY_CHANGE and value != settings.get(name):
            flag = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{flag} {value} differs from this run's {settings.get(name)}; "
                "leave it out to resume, or start another run with another --out"
            )
    return {**settings, **flags}


def create_run_folder(config: TrainConfig) -> Path:
    """Make the folder and write the resolved configuration into it. Raises ``StorageError`` when the disk refuses."""
    run = Path(config.out)
    try:
        run.mkdir(parents=True, exist_ok=True)
        partial = run / f"{CONFIG_NAME}.partial"
        partial.write_text(tomli_w.dumps(config.to_mapping()), encoding="utf-8")
        partial.replace(run / CONFIG_NAME)
    except OSError as error:
        raise StorageError(f"cannot write in {str(run)!r}: {error.strerror}; choose another --out") from error
    return run
