"""``gptwo plan``: what a run will cost, before it begins."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptwo.base.cores import check_threads
from gptwo.base.errors import ConfigError
from gptwo.cli.output import print_json
from gptwo.cli.size import parse_size
from gptwo.config import PRESETS, GPT2Config

if TYPE_CHECKING:
    from gptwo.perf.generation_plan import GenerationPlan
    from gptwo.perf.plan import TrainingPlan
    from gptwo.perf.target import Target

# Of a generation that says nothing of its prompt.
_PROMPT_TOKENS = 32
# Of tokens, devices, bytes and money: more than anyone has, and no sum of products of it is past a float.
_MOST = 10**18

# Flags of one kind of plan, and what they are when not given.
_OF_TRAINING: dict[str, Any] = {
    "batch_tokens": 4096,
    "tokens": None,
    "context": None,
    "dropout": None,
    "micro_batch": None,
    "optimizer": None,
    "checkpoint_activations": False,
    "gpus": 1,
    "parallel": "ddp",
    "link": None,
}
_OF_WRITING: dict[str, Any] = {
    "prompt_tokens": _PROMPT_TOKENS,
    "slots": 1,
    "engine": None,
    "kv_dtype": None,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say before a run what it will cost: FLOPs, memory by its parts, time, money. By formula, with the speeds of "
        "this machine, measured once, or of one that is not here. docs/guides/plan.md"
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"a size ({', '.join(PRESETS)}), a checkpoint folder, a run, or a hub id",
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAMES",
        help="auto, cpu, cuda, cuda:N or mps of this machine, or one known by its data sheet (h100, a100, rtx4090, "
        "raspberry-pi-5, …: an unknown name lists them); several with commas between (default: auto)",
    )
    parser.add_argument("--memory", type=parse_size, metavar="SIZE", help="of the device: 16GB, 24GiB")
    parser.add_argument("--price", type=float, metavar="X", help="of one device for an hour, in any money")
    parser.add_argument("--dtype", help="of training: fp32 or bf16; of writing also int8, int4, fp16")
    parser.add_argument(
        "--measure", action="store_true", help="measure this machine again, for half a minute"
    )
    parser.add_argument("--json", metavar="FILE", help="write the plans as JSON; - for standard output")
    _add_training(parser)
    _add_generation(parser)
    parser.set_defaults(command=run)


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--batch-tokens", type=int, metavar="N", help="a step (default: 4096)")
    group.add_argument("--tokens", type=float, metavar="N", help="in all, as 300e6 (default: 1000 steps)")
    group.add_argument("--context", type=int, metavar="C", help="instead of the model's own")
    group.add_argument("--dropout", type=float, metavar="X", help="instead of the model's own")
    group.add_argument(
        "--micro-batch", type=int, metavar="N", help="sequences at a time (default: what fits)"
    )
    group.add_argument("--optimizer", choices=("adamw", "muon"), help="default: as gptwo train would choose")
    group.add_argument(
        "--checkpoint-activations", action="store_true", default=None, help="less memory, a third more work"
    )
    group.add_argument("--gpus", type=int, metavar="N", help="devices alike (default: 1)")
    group.add_argument("--parallel", choices=("ddp", "fsdp"), help="default: ddp")
    group.add_argument("--link", type=parse_size, metavar="SIZE", help="bytes a second between two: 25GB")


def _add_generation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("writing")
    group.add_argument("--generate", type=int, metavar="N", help="plan to write N tokens instead of training")
    group.add_argument("--prompt-tokens", type=int, metavar="N", help=f"default: {_PROMPT_TOKENS}")
    group.add_argument("--slots", type=int, metavar="N", help="texts side by side (default: 1)")
    group.add_argument("--engine", choices=("native", "torch"), help="default: native on a CPU, torch else")
    group.add_argument("--kv-dtype", choices=("fp32", "bf16", "int8"), help="of keys and values")
    group.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: its physical cores)")


def run(arguments: argparse.Namespace) -> int:
    from gptwo.checkpoint.released_config import read_config
    from gptwo.perf.plan_text import generation_lines, training_lines
    from gptwo.perf.record import require_writable
    from gptwo.perf.target import find_target

    _check(arguments)
    _settle(arguments)
    quiet = arguments.json == "-"
    if arguments.json is not None and not quiet:
        require_writable(Path(arguments.json))
    folder = _folder(arguments.model)
    config = PRESETS[arguments.model] if folder is None else read_config(folder)
    plans: list[dict[str, Any]] = []
    # A name that is not known ends it before anything is printed.
    targets = [
        find_target(
            name.strip(),
            threads=arguments.threads,
            measure=True,
            anew=arguments.measure,
            say=partial(print, file=sys.stderr),
            memory_bytes=arguments.memory,
            link_bytes_per_s=arguments.link,
        )
        for name in arguments.device.split(",")
    ]
    for target in targets:
        if arguments.generate is None:
            training = _training(arguments, config, target)
            plans.append(training.to_json())
            lines = training_lines(training)
        else:
            generation = _generation(arguments, folder, config, target)
            plans.append(generation.to_json())
            lines = generation_lines(generation)
        if not quiet:
            print("\n".join([*([""] if len(plans) > 1 else []), _heading(arguments.model, target), *lines]))
    _write(arguments, config, plans)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    for name in (
        "batch_tokens",
        "tokens",
        "context",
        "micro_batch",
        "gpus",
        "generate",
        "prompt_tokens",
        "slots",
        "memory",
        "link",
    ):
        value = getattr(arguments, name)
        if value is not None and not 1 <= value <= _MOST:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} {value:g} is not possible; expected 1 to {_MOST:g}")
    check_threads(arguments.threads)
    if arguments.price is not None and not 0 <= arguments.price <= _MOST:
        raise ConfigError(f"--price {arguments.price:g} is not possible; expected 0 to {_MOST:g}")


def _settle(arguments: argparse.Namespace) -> None:
    """Refuse flags that the plan asked for knows nothing of, and fill in those that were not given."""
    if arguments.generate is None:
        of_others, remedy = _OF_WRITING, "of writing; give --generate N beside it, or leave it out"
    else:
        of_others, remedy = _OF_TRAINING, "of training; leave it out beside --generate"
    for name in of_others:
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} is {remedy}")
    for name, default in (_OF_TRAINING | _OF_WRITING).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)


def _folder(name: str) -> Path | None:
    """Where the shape of a model stands; None for a size."""
    if name in PRESETS:
        return None
    from gptwo.checkpoint.released_config import resolve_shape

    return resolve_shape(name)


def _heading(model: str, target: Target) -> str:
    if target.machine is None:
        measured = f", measured {target.measured.measured_at}" if target.measured else ""
        return f"{model} on {target.device}: {target.title}{measured}"
    efficiency = target.machine.efficiency
    return (
        f"{model} on {target.title}: NOT measured. {target.machine.source}; of its peaks {efficiency.products:.0%} of "
        f"arithmetic and {efficiency.memory:.0%} of memory are reckoned with ({efficiency.source})"
    )


def _training(arguments: argparse.Namespace, config: GPT2Config, target: Target) -> TrainingPlan:
    import dataclasses

    from gptwo.perf.plan import plan_training

    changes = {name: getattr(arguments, name) for name in ("context", "dropout")}
    config = dataclasses.replace(
        config, **{name: value for name, value in changes.items() if value is not None}
    )
    if arguments.dtype not in (None, "fp32", "bf16"):
        raise ConfigError(f"--dtype {arguments.dtype} is not possible in training; expected fp32 or bf16")
    fresh = arguments.model in PRESETS and arguments.parallel == "ddp"
    steps = 1000 if arguments.tokens is None else -(-int(arguments.tokens) // arguments.batch_tokens)
    return plan_training(
        config,
        target,
        batch_tokens=arguments.batch_tokens,
        steps=steps,
        dtype=arguments.dtype or "auto",
        optimizer=arguments.optimizer or ("muon" if fresh else "adamw"),
        micro_batch=arguments.micro_batch,
        checkpoint_activations=arguments.checkpoint_activations,
        ranks=arguments.gpus,
        parallel=arguments.parallel,
        from_scratch=arguments.model in PRESETS,
        price_per_hour=arguments.price,
    )


def _generation(
    arguments: argparse.Namespace, folder: Path | None, config: GPT2Config, target: Target
) -> GenerationPlan:
    from gptwo.infer.formats import KV_DTYPES, Formats
    from gptwo.perf.generation_plan import plan_generation

    engine = arguments.engine or ("native" if target.kind == "cpu" else "torch")
    weights = _weights(arguments, folder, engine)
    kv = (arguments.kv_dtype or KV_DTYPES[weights]) if engine == "native" else weights
    if engine == "torch" and arguments.kv_dtype not in (None, weights):
        raise ConfigError(
            f"the torch engine keeps keys and values as its weights are, in {weights}; leave out --kv-dtype, or give "
            "--engine native on a CPU"
        )
    if engine == "native" and target.kind != "cpu":
        raise ConfigError(f"the native engine runs on a CPU, not on {target.title}; expected --engine torch")
    return plan_generation(
        config,
        target,
        engine="native" if engine == "native" else "torch",
        formats=Formats(weights, kv),
        prompt_tokens=arguments.prompt_tokens,
        new_tokens=arguments.generate,
        slots=arguments.slots,
        price_per_hour=arguments.price,
    )


def _weights(arguments: argparse.Namespace, folder: Path | None, engine: str) -> str:
    from gptwo.infer.engines import ENGINES, short_dtype

    if arguments.dtype is None:
        if folder is None:
            return "fp32"
        from gptwo.checkpoint.layout import CONFIG_NAME, has_weights, read_json_object
        from gptwo.infer.formats import formats_of

        if not has_weights(folder):  # of the hub: its config alone was fetched
            fields = read_json_object(folder / CONFIG_NAME)
            stored = short_dtype(str(fields.get("torch_dtype") or fields.get("dtype") or "fp32"))
            return stored if stored in ENGINES[engine].dtypes else "fp32"
        return formats_of(folder, engine=engine, dtype=None, kv_dtype=None).weights
    weights = short_dtype(arguments.dtype)
    if weights not in ENGINES[engine].dtypes:
        raise ConfigError(
            f"--dtype {arguments.dtype} is not possible on the {engine} engine; "
            f"expected one of {', '.join(ENGINES[engine].dtypes)}"
        )
    return weights


def _write(arguments: argparse.Namespace, config: GPT2Config, plans: list[dict[str, Any]]) -> None:
    import dataclasses

    from gptwo.perf.record import write_json

    if arguments.json is None:
        return
    value = {"model": arguments.model, "config": dataclasses.asdict(config), "plans": plans}
    if arguments.json == "-":
        print_json(value)
        return
    write_json(value, Path(arguments.json))
    print(f"written: {arguments.json}", file=sys.stderr)
