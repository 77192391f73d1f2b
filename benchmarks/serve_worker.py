"""What ``benchmarks/serve.py`` runs in processes of their own: questions that need a model, or a peer's libraries.

    python benchmarks/serve_worker.py WHAT ARGUMENTS

Prints one line of JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# A prompt tells servers apart when ours is sure of each of so many tokens by this many standard deviations of the
# logits: more than rounding can tip. What llama.cpp keeps in 16 bits moves logits by 0.001, 8-bit weights by 0.08.
TELLING = {32: (8, 0.02), 8: (1, 0.5)}
TELLING_PROMPTS = 4
# Times as much as in a new model, whose blocks add next to nothing.
BLOCKS_WEIGH = 30.0


def make(size: str, out: str) -> dict[str, Any]:
    """The random weights of ``decode_worker.make``, changed in two ways.

    Some tokens' embeddings are zero, so that they are never the best: ``<|endoftext|>``, for every reply to have the
    length that was asked for, and parts of characters, for every token to be text at once: the time to the first token
    is then that, on a server which holds half characters back too. And what blocks add outweighs the embeddings and
    depends on the text alone, or the same token would come after every prompt, and tell no servers apart.
    """
    from decode_worker import make as make_random
    from safetensors.numpy import load_file, save_file

    from gptwo.tokenizer import Tokenizer

    make_random(size, out)
    folder = Path(out)
    tokenizer = Tokenizer.load(folder)
    parts = [
        i
        for i in range(tokenizer.vocab_size)
        if tokenizer.is_special(i) or not is_text(tokenizer.token_bytes(i))
    ]
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("wte.weight"))
    tensors[name][parts] = 0.0
    for name in tensors:
        if name.endswith("c_proj.weight"):
            tensors[name] *= BLOCKS_WEIGH
        elif name.endswith("c_proj.bias"):
            tensors[name][:] = 0.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return {}


def is_text(token: bytes) -> bool:
    try:
        return bool(token.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def telling(model: str, prompts: str) -> dict[str, list[tuple[str, int, str]]]:
    """By bits, of the prompts in the file ``prompts`` those that tell servers apart: (prompt, tokens, their text)."""
    import numpy as np

    import gptwo

    reference = gptwo.load(model, device="cpu", engine="torch", dtype="fp32")
    found: dict[str, list[tuple[str, int, str]]] = {str(bits): [] for bits in TELLING}
    for prompt in json.loads(Path(prompts).read_text(encoding="utf-8")):
        if all(len(kept) == TELLING_PROMPTS for kept in found.values()):
            break
        ids = reference.tokenizer.encode(prompt)
        tokens = list(
            reference.generate(
                ids, max_new_tokens=max(n for n, _ in TELLING.values()), temperature=0.0
            ).tokens
        )
        logits = reference.logits(ids + tokens[:-1])[len(ids) - 1 :]
        best = np.sort(logits, axis=1)[:, -2:]
        leads = (best[:, 1] - best[:, 0]) / logits.std()
        for bits, (count, lead) in TELLING.items():
            kept = found[str(bits)]
            if len(kept) < TELLING_PROMPTS and len(tokens) >= count and leads[:count].min() >= lead:
                kept.append((prompt, count, reference.tokenizer.decode(tokens[:count])))
    return found


def convert(model: str, converted: str, precision: str) -> dict[str, Any]:
    """``converted``/model.gguf, with the vocabulary."""
    from decoding.llama_cpp_gguf import convert as convert_to_gguf

    folder = Path(converted)
    folder.mkdir(parents=True, exist_ok=True)
    convert_to_gguf(Path(model), folder, precision, vocabulary=True)
    (folder / "done").touch()
    return {}


def versions(*names: str) -> dict[str, str]:
    """Of the packages of these names, those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(what: str, arguments: Iterable[str]) -> None:
    questions = {f.__name__: f for f in (make, telling, convert, versions)}
    print(json.dumps(questions[what](*arguments)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
