"""What a process takes before there is a model in it: the interpreter, the libraries, and what these hold."""

from __future__ import annotations

from typing import Literal

from gptwo.base.memory import resident_bytes
from gptwo.config import GPT2Config
from gptwo.perf.process import ask

_TINY = GPT2Config(n_layer=1, n_head=1, n_embd=32, context=32, vocab_size=32, dropout=0.0)
Kind = Literal["native", "torch", "train"]


def process_bytes() -> dict[str, int]:
    """Resident memory of processes that have run a tiny model: on the engines "native" and "torch", and "train"."""
    from gptwo.base.errors import NativeLibraryError

    found = {}
    for kind in ("native", "torch", "train"):
        try:
            found[kind] = int(ask({"what": "process", "kind": kind}))
        except NativeLibraryError:
            continue
    return found


def own_bytes(kind: Kind) -> int:
    """This process's, after it has done that. True only in a fresh one."""
    run = {"native": _write_natively, "torch": _write_with_torch, "train": _train}[kind]
    held = run()  # alive while it is measured: its threads and workspaces belong to it
    now, _ = resident_bytes()
    del held
    return now


def _write_natively() -> object:
    import numpy as np

    from gptwo.base.cores import usable_cores
    from gptwo.infer import generate
    from gptwo.kernels.library import open_kernels
    from gptwo.perf.zero_engine import zero_engine
    from gptwo.tokenizer import Tokenizer

    np.random.default_rng(0)  # NumPy loads it with the first draw
    engine = zero_engine(open_kernels(usable_cores()), _TINY)
    engine.start(slots=1, capacity=1).prefill([0], [np.zeros(1, dtype=np.int64)])
    return engine, generate, Tokenizer


def _write_with_torch() -> object:
    import numpy as np
    import torch

    from gptwo.infer import generate
    from gptwo.infer.torch_engine import TorchEngine
    from gptwo.model import GPT2
    from gptwo.tokenizer import Tokenizer

    engine = TorchEngine(GPT2(_TINY), device=torch.device("cpu"))
    engine.start(slots=1, capacity=8).prefill([0], [np.zeros(8, dtype=np.int64)])
    return engine, generate, Tokenizer


def _train() -> object:
    import torch

    from gptwo.model import GPT2
    from gptwo.train import loop
    from gptwo.train.setup import tune_process
    from gptwo.train.step import optimizer_step

    tune_process(torch.device("cpu"))
    model = GPT2(_TINY)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    optimizer_step(
        model, lambda x, y: model.loss(x, y, reduction="sum"), optimizer, [(tokens, tokens)],
        predicted_tokens=8, lr_factor=1.0, grad_clip=1.0,
    )  # fmt: skip
    return model, optimizer, loop
