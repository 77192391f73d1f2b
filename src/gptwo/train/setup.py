"""What a run needs before its first step: the model, the settings that the machine decides, the compiled loss."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gptwo.base.errors import ConfigError
from gptwo.base.memory import keep_freed_memory, require_memory
from gptwo.checkpoint.released_config import read_config
from gptwo.checkpoint.resolve import resolve_model
from gptwo.checkpoint.vocabulary import require_same_vocabulary
from gptwo.checkpoint.weights import load_weights
from gptwo.config import PRESETS, GPT2Config, TrainConfig
from gptwo.costs import parameter_count, weight_bytes
from gptwo.model import GPT2, build_model
from gptwo.tokenizer import Tokenizer
from gptwo.train.distributed import ALONE, World, ranks_now
from gptwo.train.micro_batch import (
    derive_micro_batch,
    free_bytes,
    sequences_per_step,
    step_memory,
)
from gptwo.train.recipes import resolve_recipe
from gptwo.train.step import LossSum

DType = Literal["auto", "fp32", "bf16"]


def build_or_load(
    config: TrainConfig, start: Path | None, *, tokenizer: Tokenizer, device: torch.device
) -> GPT2:
    """The model of the run's checkpoint ``start``, else of the checkpoint that ``model`` names, else a fresh one.

    A fresh model takes the vocabulary of its data. Raises ``DataError`` when a loaded one has another vocabulary, and
    ``ConfigError`` when a flag asks for another shape than it has.
    """
    changes = config.model_changes()
    checkpointing = config.checkpoint_activations
    if start is None and config.model in PRESETS:
        shape = dataclasses.replace(PRESETS[config.model], **changes, vocab_size=tokenizer.vocab_size)
        require_room(config, shape, device)
        return build_model(shape, seed=config.seed, device=device, checkpoint_activations=checkpointing)
    folder = start or resolve_model(config.model)
    stored = read_config(folder)
    if start is None:
        require_same_vocabulary(folder, stored, tokenizer, data=config.data)
    for name in ("n_layer", "n_head", "n_embd", "context"):
        if changes.get(name, getattr(stored, name)) != getattr(stored, name):
            raise ConfigError(
                f"{name}={changes[name]} differs from the {getattr(stored, name)} of {str(folder)!r}; leave it out"
            )
    shape = dataclasses.replace(stored, **changes)
    require_room(config, shape, device)
    model = GPT2(shape, device="meta", checkpoint_activations=checkpointing)
    model.load_state_dict(load_weights(folder, device=device, dtype=torch.float32), assign=True)
    return model


def require_room(
    config: TrainConfig, shape: GPT2Config, device: torch.device, *, adapters: int | None = None
) -> None:
    """``ConfigError``, with the numbers, for a run that does not fit what is free, before any of it is taken.

    It is the plan's sum (``micro_batch.step_memory``), of the micro-batch that is given or would be derived, and of no
    more sequences than a step has. ``adapters`` are the parameters trained beside a frozen model. ``force`` lets all of
    them begin. Of a sharded model rank 0's whole weights alone are looked at.
    """
    if config.force:
        return
    free, parts, micro_batch = free_bytes(device), {"weights alone": weight_bytes(shape)}, 1
    # What is far too large for its weights alone is not counted block by block.
    if config.parallel != "fsdp" and weight_bytes(shape) <= free:
        share = -(-sequences_per_step(config.batch_tokens, shape.context) // ranks_now())
        fused, on_cpu = adapters is None and is_fused(config, device), device.type != "cuda"
        micro_batch = min(share, config.micro_batch or share)
        if config.micro_batch is None:
            micro_batch = derive_micro_batch(
                shape,
                share,
                available_bytes=free,
                checkpoint_activations=config.checkpoint_activations,
                fused=fused,
                on_cpu=on_cpu,
            )
        parts = step_memory(
            shape,
            share,
            micro_batch=micro_batch,
            optimizer="muon" if resolve_recipe(config, shape).optimizer == "muon" else "adamw",
            checkpoint_activations=config.checkpoint_activations,
            dtype="bf16" if resolve_dtype(config.dtype, device) == "bf16" else "fp32",
            fused=fused,
            on_cpu=on_cpu,
            adapters=adapters,
        )
    require_step_memory(
        parts, parameters=parameter_count(shape), micro_batch=micro_batch, free=free, where=str(device)
    )


def require_step_memory(
    parts: Mapping[str, int], *, parameters: int, micro_batch: int, free: int, where: str
) -> None:
    """``ConfigError``, with every part, where a step takes more than is free."""
    sequences = f"{micro_batch} sequences" if micro_batch > 1 else "one sequence"
    require_memory(
        f"training {parameters:,} parameters on {sequences} at a time",
        parts,
        free_bytes=free,
        where=where,
        remedy="choose a smaller model, --context or --micro-batch, --checkpoint-activations",
    )


def is_fused(config: TrainConfig, device: torch.device) -> bool:
    """Whether the blocks' layers run fused (``model/fused_linear.py``), which keep less for the backward pass."""
    dtype, compiled = resolve_dtype(config.dtype, device), resolve_compile(config.compile, device)
    return device.type == "cpu" and dtype == "fp32" and not compiled


def resolve_dtype(dtype: DType, device: torch.device) -> DType:
    """``auto`` is bf16 where the device has it in hardware, else fp32."""
    if dtype != "auto":
        return dtype
    return "bf16" if _has_bf16(device) else "fp32"


def slow_dtype(dtype: DType, device: torch.device) -> str:
    """One line for a user whose run keeps the dtype of a machine that was better at it; else ""."""
    if dtype != "bf16" or _has_bf16(device):
        return ""
    return (
        f"the run goes on in bf16, as it began, which on this {device.type} may be many times slower than fp32; "
        "to train on in fp32, begin another run from its checkpoint, with --dtype fp32"
    )


def _has_bf16(device: torch.device) -> bool:
    # bf16 that is emulated is far slower than fp32 (25 times on AVX2), so only hardware counts.
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def resolve_for_machine(config: TrainConfig, model: GPT2, world: World = ALONE) -> TrainConfig:
    """Fill in the recipe, dtype and micro-batch, so that the kept configuration repeats the same sums elsewhere.

    ``ConfigError`` when a step has fewer sequences than there are ranks.
    """
    config = resolve_recipe(config, model.config)
    device = model.token_embedding.weight.device
    dtype = resolve_dtype(config.dtype, device)
    compile_step = resolve_compile(config.compile, device)
    sequences = sequences_per_step(config.batch_tokens, model.config.context)
    if sequences < world.size:
        raise ConfigError(
            f"batch_tokens={config.batch_tokens} is {sequences} sequences, and there are {world.size} ranks; "
            f"start at most {sequences}, or give a batch_tokens of {world.size * model.config.context} or more"
        )
    micro_batch = config.micro_batch or -world.largest(
        -derive_micro_batch(
            model.config,
            world.largest_share(sequences),
            available_bytes=free_bytes(device) // (1 if device.type == "cuda" else world.local_size),
            checkpoint_activations=config.checkpoint_activations,
            on_cpu=device.type == "cpu",
            fused=is_fused(config, device),
            parameter_ranks=world.size if config.parallel == "fsdp" else 1,
        )
    )
    return dataclasses.replace(config, dtype=dtype, micro_batch=micro_batch, compile=compile_step)


def resolve_compile(asked: bool | None, device: torch.device) -> bool:
    """What was asked for; else on a GPU where there is a compiler."""
    return asked if asked is not None else device.type == "cuda" and has_compiler()


def has_compiler() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs, on a GPU too."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def tune_process(device: torch.device) -> None:
    """What a training step gains from and no result of it depends on in kind: freed memory kept, TF32 on a GPU.

    TF32 products of float32 matrices round their inputs to 10 bits, and sum in float32.
    """
    keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = "tf32"


def loss_function(model: GPT2, *, compile_step: bool) -> LossSum:
    """Summed loss of a micro-batch, compiled when asked. ``ConfigError`` when there is no compiler, or it fails."""

    def loss_sum(tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        return model.loss(tokens, targets, documents=documents, reduction="sum")

    if not compile_step:
        return loss_sum
    if not has_compiler():
        raise ConfigError(
            "--compile needs a C++ compiler and none is on PATH; install g++, or leave out --compile"
        )
    from torch._inductor.exc import InductorError
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    compiled: LossSum = torch.compile(loss_sum)

    def compiled_loss_sum(*rows: Tensor) -> Tensor:
        try:
            return compiled(*rows)
        except InductorError as error:
            # A process that is killed while it compiles leaves half a file in the cache that all processes share.
            raise ConfigError(
                f"torch.compile failed ({str(error).strip().splitlines()[0]}); remove its cache {cache_dir()}, "
                "or give --no-compile"
            ) from error

    return compiled_loss_sum
