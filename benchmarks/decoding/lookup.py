"""Prompt lookup on a source file, by a model that continues the file with itself.

How much is looked up depends on what the model writes, and random weights write no text. So the model is made to know
the file: the embedding of position t is that of the file's token t + 1, large, and whatever the blocks add to it, the
head finds that token. The passes cost what they always cost, and what is right of the guesses is a matter of the text.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

_LARGE = 20.0
_POSITIONS = "transformer.wpe.weight"


def _tokens(model: Path, source: Path) -> list[int]:
    from gptwo.tokenizer.tokenizer import Tokenizer

    return Tokenizer.load(model).encode(source.read_text(encoding="utf-8"))


def write_knowing(model: Path, source: Path, out: Path) -> None:
    """A copy of ``model`` whose position embedding knows ``source``."""
    tensors = load_file(model / "model.safetensors")
    positions = tensors[_POSITIONS]
    following = np.array(_tokens(model, source)[1 : len(positions) + 1])
    positions[: len(following)] = _LARGE * tensors["transformer.wte.weight"][following]
    shutil.copytree(model, out, ignore=lambda folder, names: [n for n in names if n.startswith("model")])
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def measure(
    model: Path, source: Path, dtype: str, threads: int, *, prompt: int, count: int
) -> dict[str, float]:
    """Tokens per second of ``count`` after the first ``prompt`` of the file, with prompt lookup and without."""
    import gptwo

    language_model = gptwo.load(model, engine="native", dtype=dtype, threads=threads)
    tokens = _tokens(model, source)[:prompt]

    def written(new: int, with_lookup: bool) -> tuple[float, list[int]]:
        began = time.perf_counter()
        result = language_model.generate(tokens, max_new_tokens=new, temperature=0.0, lookup=with_lookup)
        return time.perf_counter() - began, result.tokens

    prefill_s = min(written(1, False)[0] for _ in range(2))
    without_s, expected = written(count + 1, False)
    with_s, found = written(count + 1, True)
    if found != expected:
        raise RuntimeError("the text is another one with prompt lookup")
    return {"without": count / (without_s - prefill_s), "with": count / (with_s - prefill_s)}
