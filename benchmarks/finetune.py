"""Fine-tuning on real text: a model of Python's own sources learns to answer in Shakespeare's dialogue.

    python benchmarks/finetune.py                      # a few minutes on two cores
    python benchmarks/finetune.py --base runs/base     # a base that is there already

A base is trained briefly on the standard library. Then a speech of tinyshakespeare is the prompt and the one that
answers it the completion; all weights learn from them, and adapters do. Printed: the loss on answers held out, of the
base and of both, and what each writes after prompts held out. One JSON line goes to benchmarks/history/finetune.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import sysconfig
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import record

import gptwo
from gptwo.config import TrainConfig
from gptwo.data import prepare
from gptwo.data.examples import read_examples
from gptwo.train.finetune import FinetuneResult, finetune
from gptwo.train.finetune_config import FinetuneConfig
from gptwo.train.loop import train

ROOT = Path(__file__).parents[1]
SHAKESPEARE = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
SHAPE = {"n_layer": 3, "n_head": 4, "n_embd": 128, "context": 256}
VOCABULARY = 1024
BASE_BYTES = 2 << 20
LONGEST_SPEECH = 200
RANK = 8


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shakespeare", type=Path, default=SHAKESPEARE, metavar="FILE")
    parser.add_argument("--out", type=Path, help="folder for all it makes (default: a temporary one)")
    parser.add_argument("--base", type=Path, help="a model to begin from, instead of training one")
    parser.add_argument("--base-steps", type=int, default=600)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--no-history", action="store_true", help="print only")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = parsed.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        base = parsed.base or train_base(folder, steps=parsed.base_steps)
        examples = write_examples(parsed.shakespeare, folder / "dialogue.jsonl", most=parsed.examples)
        report = compare(base, examples, folder, epochs=parsed.epochs)
    report["settings"] = {
        name: value for name, value in vars(parsed).items() if isinstance(value, int | float)
    }
    if not parsed.no_history:
        record.append("finetune", report)
    return 0


def train_base(folder: Path, *, steps: int) -> Path:
    """A few megabytes of the standard library, its own BPE, and ``steps`` steps of 2,048 tokens."""
    files, size = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        files.append(str(path))
        size += path.stat().st_size
        if size > BASE_BYTES:
            break
    prepare(files, tokenizer="bpe", vocab_size=VOCABULARY, out=folder / "python", force=True)
    print(f"training the base: {size:,} bytes of the standard library, {steps} steps", file=sys.stderr)
    config = TrainConfig(
        data=str(folder / "python"),
        out=str(folder / "base"),
        **SHAPE,
        batch_tokens=2048,
        steps=steps,
        warmup_steps=steps // 10,
        eval_every=steps,
        save_every=steps,
        sample_tokens=0,
    )
    return train(config).run


def write_examples(shakespeare: Path, target: Path, *, most: int) -> Path:
    """Two speeches that follow each other: the first and who answers it, and the answer."""
    speeches = []
    for block in shakespeare.read_text(encoding="utf-8").split("\n\n"):
        speaker, _, words = block.strip().partition(":\n")
        if words and len(words) <= LONGEST_SPEECH:
            speeches.append((speaker, words))
    with target.open("w", encoding="utf-8") as file:
        for (first, said), (second, answer) in list(pairwise(speeches))[:most]:
            record = {"prompt": f"{first}:\n{said}\n\n{second}:\n", "completion": answer}
            file.write(json.dumps(record) + "\n")
    return target


def compare(base: Path, examples: Path, folder: Path, *, epochs: float) -> dict[str, Any]:
    """Fine-tune both ways, print the table and the samples, and return the figures."""
    results: dict[str, FinetuneResult] = {}
    seconds: dict[str, float] = {}
    for name, extra in (("all weights", {}), ("adapters", {"lora_rank": RANK})):
        print(f"fine-tuning {name}", file=sys.stderr)
        settings = {"model": str(base), "data": [str(examples)], "out": str(folder / name.replace(" ", "-"))}
        config = FinetuneConfig.from_mapping({**settings, **extra, "epochs": epochs, "sample_tokens": 0})
        began = time.perf_counter()
        results[name] = finetune(config)
        seconds[name] = time.perf_counter() - began
    before = next(iter(results.values())).base_nats_per_token
    models = {"base": base, **{name: result.run.checkpoint for name, result in results.items()}}
    print(f"\n{'':12} {'trained':>12} {'checkpoint':>14} {'held-out loss':>14} {'seconds':>8}")
    rows: dict[str, dict[str, Any]] = {"base": {"nats_per_token": before}}
    print(f"{'base':12} {'':12} {'':14} {before:14.3f}")
    for name, result in results.items():
        tensors = result.run.checkpoint.glob("*model.safetensors")
        stored = sum(path.stat().st_size for path in tensors)
        evaluation = result.run.evaluation
        assert evaluation is not None
        rows[name] = {
            "nats_per_token": evaluation.nats_per_token,
            "steps": result.run.step,
            "bytes": stored,
            "seconds": seconds[name],
        }
        print(
            f"{name:12} {stored // 4:12,} {stored:14,} {evaluation.nats_per_token:14.3f} {seconds[name]:8.0f}"
        )
    samples = write_samples(models, examples)
    return {"shape": {**SHAPE, "vocab_size": VOCABULARY}, "rank": RANK, "results": rows, "samples": samples}


def write_samples(models: dict[str, Path], examples: Path) -> list[dict[str, str]]:
    """What each model writes after the two prompts held out whose own answers are longest."""
    tokenizer = gptwo.load(models["base"]).tokenizer
    held_out = read_examples([str(examples)], tokenizer, val_fraction=FinetuneConfig.val_fraction).val
    held_out = sorted(held_out, key=lambda example: -int(example.answer.sum()))[:2]
    samples = []
    for example in held_out:
        prompt = tokenizer.decode(example.ids[~example.answer].tolist())
        print(f"\n--- {prompt}")
        written = {"prompt": prompt}
        for name, path in models.items():
            model = gptwo.load(path)
            generation = model.generate(prompt, max_new_tokens=60, temperature=0.7, top_k=40, seed=0)
            written[name] = generation.text
            print(f"[{name}] {generation.text}")
        samples.append(written)
    return samples


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
