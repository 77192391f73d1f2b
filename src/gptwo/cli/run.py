"""What ``gptwo train`` and ``gptwo finetune`` have in common: a flag for each setting, and the frame of a run."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptwo.base.errors import ConfigError
from gptwo.cli.output import INTERRUPTED, add_json, print_json
from gptwo.config import TrainConfig

if typing.TYPE_CHECKING:
    from gptwo.perf.plan import TrainingPlan
    from gptwo.train.distributed import World
    from gptwo.train.observer import TrainResult


@dataclass(frozen=True)
class Done:
    """A run that has stopped, and what its command says of it before, or in JSON beside, what each says."""

    run: TrainResult
    json: dict[str, Any] = dataclasses.field(default_factory=dict)
    line: str = ""


def add_run(
    parser: argparse.ArgumentParser, settings: type[TrainConfig], *, without: Collection[str] = ()
) -> None:
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings; flags win over it")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest whole checkpoint of --out"
    )
    _add_settings(parser, settings, without=without)
    add_json(parser)


def carry_out(
    arguments: argparse.Namespace,
    command: str,
    kind: type[TrainConfig],
    work: Callable[..., Done],
    *,
    settle: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> int:
    """``work(config, resume=, observer=, world=)`` as ``arguments`` say, on all ranks; the exit code.

    ``settle`` puts what stands for something else in the settings given into the form in which a run keeps it.
    """
    from rich.console import Console

    from gptwo.cli.planned import PlanningObserver
    from gptwo.train.distributed import joined_world

    with joined_world() as world:
        # When torchrun starts a run again that it had begun, nobody is there to add --resume.
        resume = arguments.resume or world.has_begun()
        # Rank 0 joins the settings, and the others have them from it.
        joined = _joined_settings(arguments, kind, settle, resume=resume) if world.writes else None
        config = kind.from_mapping(world.share(joined), where=arguments.config or command)
        observer = PlanningObserver(Console(stderr=True))
        try:
            done = work(config, resume=resume, observer=observer, world=world)
        finally:
            observer.close()
        if not world.writes:
            return 0
        observer.ended(done.run)
        return _tell(done, command, plan=observer.plan, as_json=arguments.json, world=world)


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


def _joined_settings(
    arguments: argparse.Namespace,
    kind: type[TrainConfig],
    settle: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    resume: bool,
) -> dict[str, Any]:
    """The settings of a run: flags over the file of --config, and to resume, over those that the run has kept."""
    from gptwo.train.run_folder import read_toml, resumed_settings

    names = {setting.name for setting in dataclasses.fields(kind)}
    flags = {name: value for name, value in vars(arguments).items() if name in names}
    settings = settle({**read_toml(Path(arguments.config)), **flags} if arguments.config else flags)
    if resume:
        if "out" not in settings:
            raise ConfigError("--resume needs --out RUN: the run to go on with")
        settings = resumed_settings(settings["out"], settings, kind)
    return settings


def _tell(done: Done, command: str, *, plan: TrainingPlan | None, as_json: bool, world: World) -> int:
    """Say what a run leaves and how to go on with it; the exit code."""
    result, folder = done.run, shlex.quote(str(done.run.run))
    took = dataclasses.asdict(result.took) if result.took else None
    if as_json:
        print_json({**_run_json(result), **done.json, "plan": _plan_json(plan), "took": took})
    elif done.line:
        print(done.line)
    if result.stopped_by:
        print(
            f"{result.stopped_by}: saved step {result.step}; go on with: {command} --out {folder} --resume",
            file=sys.stderr,
        )
        # torchrun would start again what ends with another code than 0.
        return INTERRUPTED if world.launch is None else 0
    if not as_json:
        print(f"{result.checkpoint}\nwrite with it: gptwo generate {folder} --prompt TEXT")
    return 0


def _run_json(result: TrainResult) -> dict[str, Any]:
    return {
        "run": str(result.run),
        "checkpoint": str(result.checkpoint),
        "step": result.step,
        "stopped_by": result.stopped_by,
        "evaluation": dataclasses.asdict(result.evaluation) if result.evaluation else None,
    }


def _plan_json(plan: TrainingPlan | None) -> dict[str, Any] | None:
    """What ``took`` can be held against; the whole plan is in ``metrics.jsonl``."""
    if plan is None:
        return None
    names = ("steps", "seconds", "seconds_per_step", "tokens_per_s", "peak_memory_bytes")
    return {name: getattr(plan, name) for name in names}
