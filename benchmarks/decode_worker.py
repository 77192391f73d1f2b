"""What ``benchmarks/decode.py`` runs in processes of their own: one engine, one round, one question.

    python benchmarks/decode_worker.py WHAT ARGUMENTS

Prints one line of JSON. Imports only what the question needs: a peer may live in an environment without gptwo's own
libraries.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from decoding import engines

WARM_UP_TOKENS = 4
# What an engine writes to be compared: tokens after two prompts side by side, of this length.
COMPARED_TOKENS, COMPARED_PROMPT = 8, 32
GPT2_VOCAB_SIZE = 50257


def prompts(vocab_size: int, rows: int, length: int, *, seed: int) -> list[list[int]]:
    """Random ids without the last one, which is ``<|endoftext|>`` in GPT-2's vocabulary."""
    drawn: list[list[int]] = (
        np.random.default_rng(seed).integers(vocab_size - 1, size=(rows, length)).tolist()
    )
    return drawn


def _vocab_size(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"])


def write(engine: str, model: str, converted: str, threads: str, out: str) -> dict[str, Any]:
    """Keep what the engine writes, and its logits after the prompts, in the file ``out``."""
    runner = engines.load(engine, Path(model), Path(converted), int(threads))
    written = runner.generate(prompts(_vocab_size(Path(model)), 2, COMPARED_PROMPT, seed=0), COMPARED_TOKENS)
    logits = {} if written.logits is None else {"logits": written.logits}
    np.savez(out, tokens=written.tokens, **logits)
    return {}


def compare(model: str, *outs: str) -> list[dict[str, float | None]]:
    """Of each file that ``write`` kept, its distance from gptwo's torch engine in fp32 on the same tokens.

    logits   root mean square of the differences after the prompts, None where the engine does not show them
    tokens   how far below the greatest logit that of a written token is, at most

    Both in units of the logits' own standard deviation.
    """
    import torch

    from gptwo.checkpoint.weights import load_model

    reference = load_model(Path(model), device="cpu", dtype=torch.float32)
    given = np.array(prompts(_vocab_size(Path(model)), 2, COMPARED_PROMPT, seed=0))
    results: list[dict[str, float | None]] = []
    for out in outs:
        with np.load(out) as kept:
            tokens, logits = kept["tokens"], kept.get("logits")
        with torch.inference_mode():
            whole = torch.from_numpy(np.concatenate([given, tokens[:, :-1]], axis=1))
            expected = reference(whole)[:, COMPARED_PROMPT - 1 :].numpy()
        deviation = float(expected.std())
        chosen = np.take_along_axis(expected, tokens[:, :, None], axis=2)[:, :, 0]
        off = None if logits is None else float(np.sqrt(np.mean((logits - expected[:, 0]) ** 2))) / deviation
        below = float((expected.max(axis=2) - chosen).max()) / deviation
        results.append({"logits": off, "tokens": below})
    return results


def time(
    engine: str, model: str, converted: str, threads: str, *workloads: str
) -> dict[str, dict[str, float]]:
    """Seconds of each workload ROWSxPROMPTxCOUNT, after one of its shape and of other tokens to warm up."""
    runner = engines.load(engine, Path(model), Path(converted), int(threads))
    vocab_size = _vocab_size(Path(model))
    seconds = {}
    for workload in workloads:
        rows, length, count = map(int, workload.split("x"))
        runner.generate(prompts(vocab_size, rows, length, seed=1), min(count, WARM_UP_TOKENS))
        written = runner.generate(prompts(vocab_size, rows, length, seed=2), count)
        if written.tokens.shape != (rows, count + 1):
            raise RuntimeError(f"{engine} wrote {written.tokens.shape}, not {(rows, count + 1)}")
        seconds[workload] = {"prefill_s": written.prefill_s, "decode_s": written.decode_s}
    return seconds


def versions(engine: str) -> dict[str, str]:
    """The versions of what a peer is installed by."""
    names = engines.DISTRIBUTIONS[engines.ENGINES[engine].family]
    return {name: importlib.metadata.version(name) for name in names}


def make(size: str, out: str) -> dict[str, Any]:
    """A model of random weights; biases and gains too, which the released initialisation leaves at 0 and 1.

    Its tokenizer is GPT-2's, or bytes for a size of a smaller vocabulary.
    """
    import torch
    from safetensors.torch import save_file

    from gptwo.checkpoint.released_config import config_to_hf
    from gptwo.checkpoint.weights import released_state
    from gptwo.config import preset
    from gptwo.model import build_model
    from gptwo.tokenizer.build import build_byte
    from gptwo.tokenizer.resolve import find_gpt2

    tokenizer = find_gpt2() if preset(size).vocab_size == GPT2_VOCAB_SIZE else build_byte()
    config = replace(preset(size), vocab_size=tokenizer.vocab_size)
    model = build_model(config, seed=0, device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
    folder = Path(out)
    folder.mkdir(parents=True)
    tokenizer.save(folder)
    settings = config_to_hf(config, eot_id=tokenizer.eot_id, dtype="float32")
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(released_state(model), folder / "model.safetensors", metadata={"format": "pt"})
    return {}


def ceilings(threads: str) -> dict[str, float]:
    """What the machine reads from memory and multiplies, with the threads that the engines have."""
    from decoding.ceilings import measure

    return measure(int(threads))


def cold(model: str, dtype: str, threads: str) -> dict[str, float]:
    """Seconds from the shell to the first token of ``gptwo generate``, and its resident memory."""
    from decoding.cold import start

    return start(Path(model), dtype, int(threads))


def know(model: str, source: str, out: str) -> dict[str, Any]:
    """The model that continues ``source`` with itself."""
    from decoding.lookup import write_knowing

    write_knowing(Path(model), Path(source), Path(out))
    return {}


def lookup(model: str, source: str, dtype: str, threads: str, *lengths: str) -> dict[str, float]:
    """Tokens per second with prompt lookup and without, ``lengths`` of prompt and new text."""
    from decoding.lookup import measure

    prompt, count = map(int, lengths)
    return measure(Path(model), Path(source), dtype, int(threads), prompt=prompt, count=count)


def main(what: str, arguments: Iterable[str]) -> None:
    questions = {f.__name__: f for f in (write, compare, time, versions, make, ceilings, cold, know, lookup)}
    print(json.dumps(questions[what](*arguments)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
