"""The flags of commands that run a model, and the model that they ask for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptwo.infer.api import LanguageModel


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a checkpoint folder, a run, or a hub id")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """How the model runs; ``load`` reads these."""
    add_device(parser)
    parser.add_argument(
        "--engine", default="auto", help="auto, native (the CPU's own) or torch (default: auto)"
    )
    parser.add_argument(
        "--dtype",
        help="fp32 or bf16; int8 or int4 on the native engine; fp16 or fp64 on torch (default: as stored)",
    )
    parser.add_argument(
        "--kv-dtype",
        help="of the keys and values that writing keeps, on the native engine: fp32, bf16 or int8 "
        "(default: as the weights, and int8 beside int4)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: its physical cores)")


def load(arguments: argparse.Namespace) -> LanguageModel:
    """The model of ``add_model`` as ``add_engine`` says; errors as ``gptwo.load``."""
    import gptwo

    return gptwo.load(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        engine=arguments.engine,
        threads=arguments.threads,
        kv_dtype=arguments.kv_dtype,
    )
