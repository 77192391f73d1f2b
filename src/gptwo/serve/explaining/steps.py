"""The steps that are timed, of the native engine and of the reference, with their costs by ``costs``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gptwo.config import GPT2Config
from gptwo.costs import Operation, forward_operations

if TYPE_CHECKING:
    from torch import Tensor

    from gptwo.explanation.reference import Reference
    from gptwo.infer.engine import Tokens

# Of a block, in the order of ``Kernels.forward_top``: its name, and what of ``costs`` the engine computes in one go.
_NATIVE = {
    "attention_norm": ("attention_norm",),
    "attention.qkv": ("attention.qkv",),
    "attention": ("attention.scores", "attention.softmax", "attention.mix"),
    "attention.output": ("attention.output",),
    "mlp_norm": ("mlp_norm",),
    "mlp.up": ("mlp.up", "mlp.gelu"),
    "mlp.down": ("mlp.down",),
}
# What the reference hands to ``record`` when a step of ``costs`` has ended; a sum with the residual belongs to it.
_REFERENCE = {
    "attention_norm": "attention_norm",
    **dict.fromkeys(("q", "k", "v"), "attention.qkv"),
    "scores": "attention.scores",
    "attention": "attention.softmax",
    "heads": "attention.mix",
    **dict.fromkeys(("attention_output", "middle"), "attention.output"),
    "mlp_norm": "mlp_norm",
    "mlp_up": "mlp.up",
    "mlp_gelu": "mlp.gelu",
    **dict.fromkeys(("mlp_output", "output"), "mlp.down"),
}


class Step(NamedTuple):
    """What is timed as one."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    bytes: int


def native_names(n_layer: int) -> list[str]:
    """In the order of ``Kernels.forward_top``."""
    return [
        "embedding",
        *(f"blocks.{i}.{name}" for i in range(n_layer) for name in _NATIVE),
        "final_norm",
        "head",
    ]


def native_steps(config: GPT2Config, tokens: int, past: int, *, weights: Any, kv: Any) -> list[Step]:
    """Of T new tokens whose last one's logits are wanted. Of the last block only its row goes on after the keys.

    Scores stay within the processor: attention moves Q, its result, keys and values. GELU has no bytes of its own.
    The last is what the call from Python takes beside them.
    """
    operations = _last_only(config, tokens, past, weights, kv)
    steps = []
    for name in native_names(config.n_layer):
        block, own = name.split(".", 2)[:2], name.split(".", 2)[-1]
        parts = [".".join([*block, one]) for one in _NATIVE[own]] if own in _NATIVE else [name]
        found = [operations[one] for one in parts]
        moved = sum(one.weight_bytes + one.kv_bytes for one in found)
        moved += 2 * 4 * _values(found[-1]) if own == "attention" else found[0].activation_bytes
        steps.append(_step(name, found, moved))
    return [*steps, Step("python", "call", (), 0, 0, 0)]


def _last_only(config: GPT2Config, tokens: int, past: int, weights: Any, kv: Any) -> dict[str, Operation]:
    def named(count: int, before: int) -> dict[str, Operation]:
        found = forward_operations(
            config, batch=1, tokens=count, past=before, last_only=True, weights=weights, kv=kv
        )
        return {operation.name: operation for operation in found}

    operations = named(tokens, past)
    of_last = named(1, past + tokens - 1)
    prefix = f"blocks.{config.n_layer - 1}."
    for name, operation in of_last.items():
        narrowed = name.startswith(prefix) and not name.endswith(("attention_norm", "attention.qkv"))
        if narrowed or name == "final_norm":
            operations[name] = operation
    return operations


def _step(name: str, found: Sequence[Operation], moved: int) -> Step:
    kind = "attention" if len(found) == 3 else found[0].kind
    parameters, flops = sum(one.parameters for one in found), sum(one.flops for one in found)
    return Step(name, kind, found[-1].shape, parameters, flops, moved)


def _values(operation: Operation) -> int:
    return int(np.prod(operation.shape))


class ReferenceRun(NamedTuple):
    """A prompt's pass by the reference: its steps, and how to run it with their times (µs) and without."""

    steps: list[Step]
    timed: Callable[[], list[float]]
    plain: Callable[[], None]


def reference_steps(reference: Reference, tokens: Tokens) -> ReferenceRun:
    """With the logits of the last token. On a GPU each step is waited for, which costs it the overlap with the next."""
    import torch

    from gptwo.explanation.reference import embed, final_norm, ignore, run_block, unembed

    config = reference.config
    operations = forward_operations(config, batch=1, tokens=len(tokens), last_only=True)
    place = {operation.name: number for number, operation in enumerate(operations)}
    ids = torch.as_tensor(tokens, device=reference.device)
    is_cuda = reference.device.type == "cuda"

    @torch.inference_mode()
    def run(record: Callable[[str, Tensor], None], ended: Callable[[str], None]) -> None:
        x_TD = embed(reference, ids)
        ended("embedding")
        for layer in range(config.n_layer):
            x_TD = run_block(reference, layer, x_TD, record=record)
        x_TD = final_norm(reference, x_TD)
        ended("final_norm")
        unembed(reference, x_TD[-1:])
        ended("head")

    def timed() -> list[float]:
        us = np.zeros(len(operations))
        last = time.perf_counter()

        def ended(name: str) -> None:
            nonlocal last
            if is_cuda:
                torch.cuda.synchronize(reference.device)
            now = time.perf_counter()
            us[place[name]] += (now - last) * 1e6
            last = now

        def record(name: str, tensor: Tensor) -> None:
            _, layer, part = name.split(".")
            if part in _REFERENCE:
                ended(f"blocks.{layer}.{_REFERENCE[part]}")

        run(record, ended)
        return us.tolist()

    def plain() -> None:
        run(ignore, lambda name: None)
        if is_cuda:
            torch.cuda.synchronize(reference.device)

    steps = [_step(one.name, [one], one.weight_bytes + one.activation_bytes) for one in operations]
    return ReferenceRun(steps, timed, plain)
