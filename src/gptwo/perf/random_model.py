"""A model folder of any size with random weights: what is measured when there is no trained model at hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from gptwo.config import preset

# Gains and biases vary by this around 1 and 0, where training would begin exactly there: a kernel that forgot one of
# them would otherwise agree.
_VARIATION = 0.05


def write_random_model(size: str, folder: str | Path, *, seed: int = 0) -> None:
    """The size's config.json, tokenizer and fp32 weights drawn from ``seed``, in ``folder``, which is made.

    The tokenizer is GPT-2's where the vocabulary is GPT-2's and its files are on this machine, and else of bytes; the
    vocabulary stays the size's own. Takes two seconds and 500 MB for GPT-2 124M. ``ConfigError`` for an unknown size.
    """
    import torch
    from safetensors.torch import save_file

    from gptwo.checkpoint.released_config import config_to_hf
    from gptwo.checkpoint.weights import released_state
    from gptwo.model import build_model
    from gptwo.tokenizer.build import build_byte, build_gpt2
    from gptwo.tokenizer.resolve import packaged_gpt2

    config = preset(size)
    files = packaged_gpt2()
    tokenizer = build_gpt2(*files) if files and config.vocab_size >= 50257 else build_byte()
    # A vocabulary must hold every token of its tokenizer: bytes and <|endoftext|> are 257.
    config = replace(config, vocab_size=max(config.vocab_size, tokenizer.vocab_size))
    model = build_model(config, seed=seed, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.empty_like(parameter).normal_(0.0, _VARIATION, generator=generator))
    folder = Path(folder)
    folder.mkdir(parents=True)
    tokenizer.save(folder)
    settings = config_to_hf(config, eot_id=tokenizer.eot_id, dtype="float32")
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(released_state(model), folder / "model.safetensors", metadata={"format": "pt"})
