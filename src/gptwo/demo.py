"""``gptwo demo``: text → tokenizer → trained model → writing, in a few minutes on any machine."""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import sys
import sysconfig
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gptwo.base.device import resolve_device
from gptwo.base.errors import ConfigError, DataError
from gptwo.base.units import duration
from gptwo.config import PRESETS, GPT2Config, TrainConfig
from gptwo.costs import parameter_count
from gptwo.data import DataIndex, prepare, split_text
from gptwo.data.terminal import prepare_bar
from gptwo.infer import api
from gptwo.model import build_model
from gptwo.train.baselines import bigram_nats_per_byte, lzma_nats_per_byte, zlib_nats_per_byte
from gptwo.train.evaluate import Evaluation
from gptwo.train.loop import train
from gptwo.train.optimizer import build_optimizer
from gptwo.train.recipes import resolve_recipe
from gptwo.train.setup import loss_function
from gptwo.train.step import optimizer_step
from gptwo.train.terminal import TerminalObserver

_SUFFIXES = frozenset({".py", ".rst", ".txt"})
_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


# The recipe, chosen by measurement: docs/decisions/0003-demo-recipe.md.
_SHAPE = PRESETS["micro"]
_BATCH_TOKENS = 2048
# More passes than this over a small text teach a model of this size the text by heart and nothing more.
_MOST_PASSES = 8
# Enough validation text to tell losses apart, and little enough to evaluate in seconds.
_VALIDATION_BYTES = 200_000
_BASELINE_TRAIN_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Nats per byte of the same validation text under a byte bigram of the training text, and two compressors."""

    bigram: float
    zlib: float
    lzma: float


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo made and how good it is. ``seconds`` is the whole demo's."""

    run: Path
    data: Path
    checkpoint: Path
    source: str
    parameters: int
    steps: int
    evaluation: Evaluation
    baselines: Baselines
    prompt: str
    sample: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types, under their own names."""
        paths = {name: str(getattr(self, name)) for name in ("run", "data", "checkpoint")}
        return {**asdict(self), **paths}

    def summary(self) -> str:
        """What was made, how good it is, where it lies, and the three commands to try next."""
        command = _command_name()
        run, data = shlex.quote(str(self.run)), shlex.quote(str(self.data))
        rows = [
            ("this model", self.evaluation.nats_per_byte),
            ("lzma", self.baselines.lzma),
            ("zlib", self.baselines.zlib),
            ("bigram of bytes", self.baselines.bigram),
        ]
        table = "\n".join(f"  {name:16} {nats:.3f}" for name, nats in rows)
        return (
            f"{self.sample}\n\n"
            f"A GPT-2 of {self.parameters:,} parameters learned from {self.source} in {self.steps} steps.\n"
            f"Nats per byte on {self.evaluation.bytes:,} bytes that it never saw (lower is better):\n{table}\n\n"
            f"The model, which transformers loads too: {self.checkpoint}\n"
            f"Log, loss curve and samples: {self.run}/metrics.jsonl, loss.png, samples.txt\n"
            f"Made in {duration(self.seconds)}. Try next:\n"
            f"  {command} generate {run} --prompt {shlex.quote(self.prompt)} --temperature 0.8\n"
            f"  {command} train --data {data} --model micro --steps 3000 --out runs/longer\n"
            f"  {command} serve {run}"
        )


def run_demo(
    *, text: str | None, out: Path, minutes: float, seed: int, device: str, console: Console
) -> DemoResult:
    """Prepare the text, train for about ``minutes``, and write a sample from the saved checkpoint.

    ``text`` is a file or folder; None is Python's standard library. Everything lies in ``out``, or in ``out-2`` … when
    that exists. Steps follow from the time that a few of them take here. Raises ``GptwoError``.
    """
    began = time.perf_counter()
    if not 0 < minutes < float("inf"):
        raise ConfigError(f"minutes={minutes} is not possible; expected a number above 0")
    place = resolve_device(device)
    out = _free_name(out)
    sources = [text] if text is not None else [str(path) for path in standard_library_files()]
    source = text if text is not None else f"the {len(sources)} files of Python's standard library"
    size = _bytes_of(sources)
    with prepare_bar(console) as progress:
        index = prepare(
            sources,
            tokenizer="bpe",
            vocab_size=_vocab_size(size),
            val_fraction=min(0.1, _VALIDATION_BYTES / max(size, 1)),
            out=out / "data",
            progress=progress,
        )
    if index.split_notice:
        console.print(f"note: {index.split_notice}", highlight=False, markup=False)
    config = _recipe(
        index,
        out,
        seconds=60 * minutes,
        seed=seed,
        device=place,
        prompt="class Queue" if text is None else _first_word(index),
    )
    console.print(f"{size:,} bytes of text from {source}", highlight=False, markup=False, soft_wrap=True)
    observer = TerminalObserver(console, show_samples=True)
    try:
        result = train(config, observer=observer)
    finally:
        observer.close()
    if result.stopped_by or result.evaluation is None:
        again = f"{_command_name()} train --out {shlex.quote(str(out))} --resume"
        console.print(f"saved step {result.step}; go on with: {again}", markup=False, soft_wrap=True)
        raise KeyboardInterrupt
    model = api.load(out, device=device)
    prompt = config.sample_prompt
    written = model.generate(prompt, max_new_tokens=160, temperature=0.8, top_p=0.95, seed=seed, slide=True)
    validation = split_text(index, "val")
    baselines = Baselines(
        bigram=bigram_nats_per_byte(split_text(index, "train", max_bytes=_BASELINE_TRAIN_BYTES), validation),
        zlib=zlib_nats_per_byte(validation),
        lzma=lzma_nats_per_byte(validation),
    )
    return DemoResult(
        run=out,
        data=out / "data",
        checkpoint=result.checkpoint,
        source=source,
        parameters=parameter_count(model.config),
        steps=result.step,
        evaluation=result.evaluation,
        baselines=baselines,
        prompt=prompt,
        sample=prompt + written.text,
        seconds=time.perf_counter() - began,
    )


def standard_library_files() -> list[Path]:
    """Python's own sources and documentation on this machine, in the order of their names, tests left out."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix())
    return [
        path
        for path in files
        if path.suffix in _SUFFIXES
        and not _LEFT_OUT.intersection(path.relative_to(root).parts)
        and path.is_file()
        and path.stat().st_size > 0
        and _is_utf8(path)
    ]


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # a few old sources declare another encoding
        return False
    return True


def _bytes_of(sources: list[str]) -> int:
    """Size on disk of files and folders; what does not exist is reported by ``prepare``, which reads it."""
    total = 0
    for source in map(Path, sources):
        files = source.rglob("*") if source.is_dir() else [source]
        total += sum(file.stat().st_size for file in files if file.is_file())
    return total


def _first_word(index: DataIndex) -> str:
    """Something that the user's text is sure to know how to go on from."""
    text = split_text(index, "train", max_bytes=400).decode("utf-8", errors="ignore")
    # A command would take a word that begins with - for a flag.
    words = [word for word in text.split() if not word.startswith("-")]
    return words[0][:16] if words else "\n"  # a language without spaces has very long "words"


def _vocab_size(text_bytes: int) -> int:
    """Few tokens for little text: each must occur often enough to be learned."""
    return 4096 if text_bytes > 3_000_000 else 1024 if text_bytes > 300_000 else 512


def _free_name(out: Path) -> Path:
    """``out``, or the first of out-2, out-3 … that does not exist or is empty: a demo never overwrites another."""
    name, number = out, 1
    while name.exists() and not (name.is_dir() and not any(name.iterdir())):
        number += 1
        name = out.with_name(f"{out.name}-{number}")
    return name


def _recipe(
    index: DataIndex, out: Path, *, seconds: float, seed: int, device: torch.device, prompt: str
) -> TrainConfig:
    """The run that fits into ``seconds`` here: as many steps as the machine's speed allows."""
    tokens = index.splits["train"].tokens
    if tokens < _SHAPE.context + 1:
        raise DataError(
            f"the text has {tokens} tokens to learn from; expected at least {_SHAPE.context + 1}: give more text"
        )
    shape = replace(_SHAPE, vocab_size=index.tokenizer.vocab_size)
    affordable = int(seconds / _seconds_per_step(shape, device))
    steps = max(10, min(affordable, _MOST_PASSES * tokens // _BATCH_TOKENS))
    repeated = steps * _BATCH_TOKENS > 2 * tokens
    return TrainConfig(
        data=str(out / "data"),
        out=str(out),
        model="micro",
        dropout=0.1 if repeated else 0.0,
        batch_tokens=_BATCH_TOKENS,
        steps=steps,
        eval_every=-(-steps // 3),
        save_every=-(-steps // 3),
        log_every=max(1, min(10, steps // 20)),
        sample_prompt=prompt,
        sample_tokens=64,
        seed=seed,
        device=str(device),
    )


def _seconds_per_step(shape: GPT2Config, device: torch.device) -> float:
    """Median of a few steps on random tokens, after one that warms up."""
    model = build_model(shape, seed=0, device=device).train()
    optimizer = build_optimizer(model, resolve_recipe(TrainConfig(data="", out=""), shape))
    loss_sum = loss_function(model, compile_step=False)
    sequences = _BATCH_TOKENS // _SHAPE.context
    tokens = torch.randint(shape.vocab_size, (sequences, _SHAPE.context), device=device)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        optimizer_step(
            model,
            loss_sum,
            optimizer,
            [(tokens, tokens)],
            predicted_tokens=_BATCH_TOKENS,
            lr_factor=0.0,
            grad_clip=1.0,
        )
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _command_name() -> str:
    """How this user can call the command: by its name if it is on PATH, else by its path."""
    if shutil.which("gptwo"):
        return "gptwo"
    program = Path(sys.argv[0])
    return f"{sys.executable} -m gptwo" if program.name == "__main__.py" else os.path.relpath(program)
