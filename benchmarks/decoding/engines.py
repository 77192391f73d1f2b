"""The engines that are timed, and what the module of each family gives. Imports none of their libraries.

A family is a module of this folder with ``load(model, converted, precision, threads)``, which returns a ``Runner``.
Where it cannot read the model's folder as it is, its ``convert(model, converted, precision)`` fills ``converted``.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np


class Written(NamedTuple):
    """What a greedy run wrote and took. ``tokens``: B x (count + 1), the first of each row by the prefill."""

    prefill_s: float
    decode_s: float
    tokens: np.ndarray[Any, np.dtype[np.int64]]
    logits: (
        np.ndarray[Any, np.dtype[np.float32]] | None
    )  # B x V after the prompts, where the engine shows them


class Runner(Protocol):
    """A loaded engine."""

    def generate(self, prompts: list[list[int]], count: int) -> Written:
        """From an empty cache: prefill prompts of one length, then decode ``count`` tokens after each, no fewer."""


@dataclass(frozen=True)
class Engine:
    """An engine at one precision; ``bits`` are those of a weight."""

    family: str
    precision: str
    bits: int

    @property
    def ours(self) -> bool:
        return self.family in ("native", "torch_engine")


ENGINES = {
    "gptwo fp32": Engine("native", "fp32", 32),
    "gptwo bf16": Engine("native", "bf16", 16),
    "gptwo int8": Engine("native", "int8", 8),
    "gptwo int4": Engine("native", "int4", 4),
    "gptwo torch": Engine("torch_engine", "fp32", 32),
    "transformers": Engine("transformers_gpt2", "fp32", 32),
    "llama.cpp F32": Engine("llama_cpp_gguf", "F32", 32),
    "llama.cpp F16": Engine("llama_cpp_gguf", "F16", 16),
    "llama.cpp Q8_0": Engine("llama_cpp_gguf", "Q8_0", 8),
    "llama.cpp Q4_0": Engine("llama_cpp_gguf", "Q4_0", 4),
    "CTranslate2 fp32": Engine("ctranslate2_generator", "float32", 32),
    "CTranslate2 int8": Engine("ctranslate2_generator", "int8", 8),
    "OpenVINO int8": Engine("openvino_genai_llm", "int8", 8),
    "OpenVINO int4": Engine("openvino_genai_llm", "int4", 4),
    "ONNX Runtime fp32": Engine("onnxruntime_graph", "fp32", 32),
    "ONNX Runtime int8": Engine("onnxruntime_graph", "int8", 8),
}

# What each family is installed by, with pip.
DISTRIBUTIONS = {
    "native": (),
    "torch_engine": (),
    "transformers_gpt2": ("transformers",),
    "llama_cpp_gguf": ("llama-cpp-python", "gguf"),
    "ctranslate2_generator": ("ctranslate2", "transformers"),
    "openvino_genai_llm": ("openvino-genai", "nncf"),
    "onnxruntime_graph": ("onnxruntime", "onnx"),
}


def family(engine: str) -> Any:
    """The module of the engine's family. ``ImportError`` where its library is not installed."""
    return importlib.import_module(f"decoding.{ENGINES[engine].family}")


def load(engine: str, model: Path, converted: Path, threads: int) -> Runner:
    """The engine over the weights in ``model``; what it converts them to is kept in ``converted`` for the next time."""
    module, precision = family(engine), ENGINES[engine].precision
    done = converted / "done"
    if hasattr(module, "convert") and not done.exists():
        converted.mkdir(parents=True, exist_ok=True)
        module.convert(model, converted, precision)
        done.touch()
    runner: Runner = module.load(model, converted, precision, threads)
    return runner


def greedy(prefill: Callable[[], Any], decode: Callable[[Any], Any], count: int) -> Written:
    """The greedy loop of an engine that is run step by step: B x V logits of the prefill, B next ids of each step."""
    began = time.perf_counter()
    first = prefill()
    tokens = [first.argmax(axis=-1)]
    prefilled = time.perf_counter()
    for _ in range(count):
        tokens.append(decode(tokens[-1]))
    ended = time.perf_counter()
    return Written(prefilled - began, ended - prefilled, np.stack(tokens, axis=1), first)
