"""A start, step by step, until the first token is known. True only in a fresh process, where nothing is loaded yet."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptwo.perf.page_cache import make_cold, read_seconds

if TYPE_CHECKING:
    from gptwo.infer.engine import Engine, Session

# What a first token is the answer to.
_PROMPT_TOKENS = 8
# A step is captured after two plain runs (``cuda_decode.DecodeGraphs``).
_CAPTURED_AFTER = 3


class Steps:
    """Steps in the order of a start. ``counts``: whether it is part of every start, and so of the total."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def add(self, name: str, work: Callable[[], Any], *, counts: bool = True) -> Any:
        """Do it, and keep its seconds."""
        began = time.perf_counter()
        result = work()
        self.keep(name, time.perf_counter() - began, counts=counts)
        return result

    def keep(self, name: str, seconds: float | None, *, counts: bool = True, note: str | None = None) -> None:
        """A step that was timed elsewhere, or was not possible (None, with the reason as its ``note``)."""
        self.steps.append({"name": name, "seconds": seconds, "counts": counts, "note": note})

    def result(self, device: str, description: str) -> dict[str, Any]:
        """What the worker answers. ``total_s`` is of a start with the file in memory: the steps that count."""
        from gptwo.perf.cases import peak_memory_bytes

        return {
            "steps": self.steps,
            "total_s": sum(step["seconds"] for step in self.steps if step["counts"]),
            "peak_memory_bytes": peak_memory_bytes(device),
            "description": description,
        }


def init(
    model: str,
    *,
    device: str = "cpu",
    engine: str = "native",
    dtype: str | None = None,
    threads: int | None = None,
    since: float | None = None,
) -> dict[str, Any]:
    """Seconds of each step of a start of this engine; ``read cold`` is None where the disk's cache cannot be emptied.

    python        from ``since`` (``time.time()`` of who started this process) to here; left out without it
    import        of all modules that it needs
    device        the threads of the native engine; of torch the CUDA context, or its threads
    read cold     all weight files from the disk; not counted, as the next steps find them in memory
    read warm     the same from the system's memory; not counted, as loading reads them again
    pack          native: packing the weights, done once and then kept beside them; not counted
    load          to a model in the host's memory; native: mapping what was packed, and checking it
    to device     torch on a GPU
    first token   of a prompt of 8 tokens, from the first pass: kernels are loaded here, and memory is touched
    capture       torch on a GPU: the tokens after it, until they are decoded in a CUDA graph
    """
    start = _native if engine == "native" else _torch
    steps = Steps()
    if since is not None:
        # The only clock that two processes share; it may have been set back in between.
        steps.keep("python", max(0.0, time.time() - since))
    return start(steps, Path(model), device=device, dtype=dtype, threads=threads)


def _read(steps: Steps, folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    reasons = [reason for file in files if (reason := make_cold(file))]
    cold = sum(map(read_seconds, files))
    steps.keep("read cold", None if reasons else cold, counts=False, note=reasons[0] if reasons else None)
    steps.keep("read warm", sum(map(read_seconds, files)), counts=False)


def _native(
    steps: Steps, folder: Path, *, device: str, dtype: str | None, threads: int | None
) -> dict[str, Any]:
    steps.add(
        "import", lambda: _import("gptwo.infer.native_engine", "gptwo.infer.packed_cache", "gptwo.tokenizer")
    )
    from gptwo.base.cores import usable_cores
    from gptwo.checkpoint.layout import packed_file
    from gptwo.infer.engines import short_dtype
    from gptwo.infer.native_engine import NativeEngine
    from gptwo.infer.packed import pack_folder
    from gptwo.kernels.layout import PACKED_DTYPES
    from gptwo.kernels.library import open_kernels

    steps.add("device", lambda: open_kernels(usable_cores() if threads is None else threads))
    _read(steps, folder)
    if packed_file(folder) is None:
        kind = next(one for one in PACKED_DTYPES if one == short_dtype(dtype or "fp32"))
        steps.add("pack", lambda: pack_folder(folder, kind), counts=False)
    # What is packed is kept when it is asked for the first time: after that, loading maps it.
    NativeEngine.load(folder, dtype=dtype, threads=threads)
    engine = steps.add("load", lambda: NativeEngine.load(folder, dtype=dtype, threads=threads))
    steps.add("first token", lambda: _first_token(engine))
    return steps.result(device, engine.description)


def _torch(
    steps: Steps, folder: Path, *, device: str, dtype: str | None, threads: int | None
) -> dict[str, Any]:
    steps.add("import", lambda: _import("torch", "gptwo.infer.torch_engine", "gptwo.tokenizer"))
    import torch

    from gptwo.base.device import resolve_device, wait
    from gptwo.checkpoint.released_config import read_config
    from gptwo.checkpoint.weights import load_weights
    from gptwo.infer.cuda_decode import SWITCH, cuda_graphs
    from gptwo.infer.torch_engine import TorchEngine, parse_dtype
    from gptwo.model import GPT2

    place = resolve_device(device)

    def context() -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        torch.ones(1 << 20, device=place).sum()
        wait(place)

    def to_device() -> dict[str, torch.Tensor]:
        moved = {name: tensor.to(place) for name, tensor in weights.items()}
        wait(place)
        return moved

    steps.add("device", context)
    _read(steps, folder)
    kind = parse_dtype(dtype) if dtype is not None else None
    weights = steps.add("load", lambda: load_weights(folder, device="cpu", dtype=kind))
    if place.type != "cpu":
        weights = steps.add("to device", to_device)
    network = GPT2(read_config(folder), device="meta")
    network.load_state_dict(weights, assign=True)
    in_graphs = place.type == "cuda" and os.environ.get(SWITCH) != "0"
    engine = TorchEngine(network, device=place, graphs=cuda_graphs if in_graphs else None)
    session = steps.add("first token", lambda: _first_token(engine))
    if in_graphs:
        steps.add("capture", lambda: _more_tokens(session))
    return steps.result(str(place), engine.description)


def _first_token(engine: Engine) -> Session:
    import numpy as np

    context = engine.config.context
    prompt = np.arange(min(_PROMPT_TOKENS, engine.config.vocab_size, context), dtype=np.int64)
    session = engine.start(slots=1, capacity=min(context, len(prompt) + _CAPTURED_AFTER))
    session.prefill([0], [prompt])
    return session


def _more_tokens(session: Session) -> None:
    import numpy as np

    for _ in range(_CAPTURED_AFTER):
        session.decode([0], np.zeros(1, dtype=np.int64))


def _import(*modules: str) -> None:
    for name in modules:
        importlib.import_module(name)
