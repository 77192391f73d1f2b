"""What is timed of training: whole optimizer steps, and the parts that they are made of."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gptwo.base.device import resolve_device, wait
from gptwo.base.memory import resident_bytes
from gptwo.checkpoint.released_config import read_config
from gptwo.checkpoint.weights import load_weights
from gptwo.config import TrainConfig
from gptwo.data import DataIndex, SplitInfo, TokenizerInfo
from gptwo.data.index import INDEX_NAME, SPLITS, dtype_for
from gptwo.data.shards import ShardWriter
from gptwo.model import GPT2
from gptwo.train.distributed import ALONE
from gptwo.train.memory import memory_bytes
from gptwo.train.optimizer import build_optimizer
from gptwo.train.recipes import resolve_recipe
from gptwo.train.setup import loss_function, resolve_compile, resolve_dtype, tune_process
from gptwo.train.source import Feed, PreparedText
from gptwo.train.step import accumulate_gradients, seed_step, update

PARTS = ("data", "forward", "backward", "optimizer")
# Before the steps that count: the first ones load kernels, compile, and take the optimizer's memory.
_WARM_UPS = 2
_TOKENS = 1 << 20


class Parts:
    """Seconds of one step by its parts; the device is waited for at every border."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._since = time.perf_counter()

    def end(self, part: str) -> None:
        """What ran since the last border was of this part."""
        wait(self._device)
        now = time.perf_counter()
        self.seconds[part] += now - self._since
        self._since = now


def train(
    model: str,
    *,
    device: str = "cpu",
    dtype: Literal["auto", "fp32", "bf16"] = "auto",
    threads: int | None = None,
    batch: int = 1,
    tokens: int | None = None,
    micro_batch: int | None = None,
    optimizer: Literal["adamw", "muon"] = "adamw",
    checkpoint_activations: bool = False,
    dropout: float | None = None,
    compile_step: bool | None = None,
    samples: int = 3,
) -> dict[str, Any]:
    """Seconds of each optimizer step on ``batch`` sequences of ``tokens`` (the context), and its split into ``PARTS``.

    The step is that of ``gptwo train`` on the model in this folder: memory-mapped tokens (random ones, from the disk's
    cache), ``micro_batch`` sequences at once (all), forward, backward with the norm of the gradient, clip and update.
    On the CPU the head's backward pass is part of its forward (``model/head.py``). ``dropout`` None is the model's own.
    """
    before, _ = resident_bytes()
    place = resolve_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    tune_process(place)
    stored = read_config(Path(model))
    shape = stored if dropout is None else replace(stored, dropout=dropout)
    length = shape.context if tokens is None else tokens
    network = GPT2(shape, device="meta", checkpoint_activations=checkpoint_activations)
    network.load_state_dict(load_weights(Path(model), device=place, dtype=torch.float32), assign=True)
    network.train()
    with tempfile.TemporaryDirectory() as folder:
        write_random_tokens(Path(folder), shape.vocab_size)
        config = TrainConfig(
            data=folder, out=folder, batch_tokens=batch * length, optimizer=optimizer, dtype=dtype
        )
        config = resolve_recipe(config, shape)
        source = PreparedText(Path(folder), config, length)
        feed = Feed(source, micro_batch or batch, place, ALONE)
        update_rule = build_optimizer(network, config)
        kind, compiled = resolve_dtype(dtype, place), resolve_compile(compile_step, place)
        loss_sum = loss_function(network, compile_step=compiled)
        steps = []
        for step in range(_WARM_UPS + samples):
            seed_step(config.seed, step)
            parts = Parts(place)

            def batches(step: int = step, parts: Parts = parts) -> Iterable[tuple[Tensor, ...]]:
                return _timed(feed.micro_batches(step), parts)

            def forward(*rows: Tensor, parts: Parts = parts) -> Tensor:
                loss = loss_sum(*rows)
                parts.end("forward")
                return loss

            loss, norm = accumulate_gradients(network, forward, update_rule, batches(), dtype=kind)
            look(loss, norm)
            parts.end("backward")
            update(
                network, update_rule, norm,
                predicted_tokens=source.predicted_tokens(step), lr_factor=1.0, grad_clip=config.grad_clip,
            )  # fmt: skip
            parts.end("optimizer")
            steps.append(parts.seconds)
    counted = steps[_WARM_UPS:]
    return {
        "seconds": [sum(seconds.values()) for seconds in counted],
        "split": {part: [seconds[part] for seconds in counted] for part in PARTS},
        "peak_memory_bytes": memory_bytes(place)[1],
        "memory_before_bytes": before,
        "description": f"torch on {place} in {kind}, {optimizer}{', compiled' if compiled else ''}",
    }


def look(loss: Tensor, norm: Tensor) -> None:
    """As training does in each step, to print them and to see whether they are finite."""
    torch.stack((loss, norm)).tolist()


def _timed(batches: Iterator[tuple[Tensor, ...]], parts: Parts) -> Iterator[tuple[Tensor, ...]]:
    """The micro-batches; what happens until the next is asked for is the backward pass of one."""
    first = True
    while True:
        parts.end("data" if first else "backward")
        first = False
        rows = next(batches, None)
        parts.end("data")
        if rows is None:
            return
        yield rows


def write_random_tokens(folder: Path, vocab_size: int) -> None:
    """A prepared folder of a million random tokens in each split: no text, and nothing to learn."""
    splits = {}
    dtype = dtype_for(vocab_size)
    ids = np.random.default_rng(0).integers(vocab_size, size=_TOKENS)
    for split in SPLITS:
        with ShardWriter(folder, split, np.dtype(dtype).newbyteorder("<")) as writer:
            writer.write(ids)
            shards = tuple(writer.finish())
        splits[split] = SplitInfo(tokens=_TOKENS, documents=1, bytes=_TOKENS, shards=shards)
    index = DataIndex(
        tokenizer=TokenizerInfo(kind="none", vocab_size=vocab_size, eot_id=None, sha256=""),
        dtype=dtype,
        split_by="position",
        val_fraction=0.5,
        splits=splits,
    )
    (folder / INDEX_NAME).write_text(index.to_json(), encoding="utf-8")
