"""Samples of the model's writing while it trains: ``RUN/samples.txt``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from gptwo.base.errors import ConfigError, TokenizerError
from gptwo.config import TrainConfig
from gptwo.infer.generate import write
from gptwo.infer.sampling import SamplingPolicy
from gptwo.infer.task import Task
from gptwo.infer.torch_engine import TorchEngine
from gptwo.model import GPT2
from gptwo.tokenizer import Tokenizer

_POLICY = SamplingPolicy(temperature=0.8, top_k=200, seed=0)


_HEADING = re.compile(r"^=== step (\d+), ", flags=re.MULTILINE)


def append_sample(path: Path, step: int, loss: float, sample: str) -> None:
    """One more sample at the end of the file. Raises ``OSError`` when the disk refuses."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"=== step {step}, validation loss {loss:.4f}\n{sample}\n\n")


def trim_samples(path: Path, last_step: int) -> None:
    """Cut off the samples of steps after ``last_step``, which a resumed run writes again. ``OSError`` as above."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    later = [match.start() for match in _HEADING.finditer(text) if int(match[1]) > last_step]
    if later:
        path.write_text(text[: later[0]], encoding="utf-8")


def sample_text(model: GPT2, tokenizer: Tokenizer, prompt: str, tokens: int) -> str:
    """The prompt and up to ``tokens`` new tokens, always with the same seed: samples of a run compare. None for 0: "".

    Draws from its own counter-based generator: training's randomness is not touched.
    """
    if not tokens:
        return ""
    was_training = model.training
    device = model.token_embedding.weight.device
    # A prompt of the user's own settings, who may mean <|endoftext|>: a chat has one after every message.
    ids = np.array(tokenizer.encode(prompt, allow_special=True), dtype=np.int64)
    if not len(ids):
        ids = np.array([tokenizer.eot_id or 0], dtype=np.int64)
    task = Task(prompts=[ids[-model.config.context :]], policy=_POLICY, max_new_tokens=tokens)
    pieces = [piece for _, piece in write(TorchEngine(model, device=device), tokenizer, task)]
    model.train(was_training)
    return prompt + "".join(pieces)


def with_possible_prompt(config: TrainConfig, tokenizer: Tokenizer) -> TrainConfig:
    """Refuses a sample prompt that the tokenizer cannot read now, and not at the first evaluation, hours later.

    The default one, a new line, is left out when a character tokenizer's text has none.
    """
    try:
        if config.sample_tokens:
            tokenizer.encode(config.sample_prompt, allow_special=True)
    except TokenizerError as error:
        if config.sample_prompt == TrainConfig.sample_prompt:
            return replace(config, sample_prompt="")
        raise ConfigError(f"sample_prompt={config.sample_prompt!r}: {error}") from error
    return config
