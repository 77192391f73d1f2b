"""transformers, eager, with its own KV cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from decoding.engines import Written, greedy


class TransformersGPT2:
    def __init__(self, model: Path) -> None:
        self._model = transformers.GPT2LMHeadModel.from_pretrained(model, dtype=torch.float32).eval()

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], count: int) -> Written:
        cache = transformers.DynamicCache(config=self._model.config)

        def step(tokens_BT: torch.Tensor) -> Any:
            output = self._model(tokens_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
            return output.logits[:, -1].numpy()

        return greedy(
            lambda: step(torch.tensor(prompts)),
            lambda last: step(torch.from_numpy(last)[:, None]).argmax(axis=-1),
            count,
        )


def load(model: Path, converted: Path, precision: str, threads: int) -> TransformersGPT2:
    torch.set_num_threads(threads)
    return TransformersGPT2(model)
