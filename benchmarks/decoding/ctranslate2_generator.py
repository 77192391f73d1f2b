"""CTranslate2's ``Generator`` over what its own converter makes of the folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np

from decoding.engines import Written


def convert(model: Path, converted: Path, precision: str) -> None:
    from ctranslate2.converters import TransformersConverter

    quantization = None if precision == "float32" else precision
    TransformersConverter(str(model)).convert(str(converted), quantization=quantization, force=True)
    # It does not load a model without a first, a last or an unknown word; writing greedily needs none of them.
    path = converted / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    any_word = _words(converted)[-1]
    settings |= {key: any_word for key in ("bos_token", "eos_token", "unk_token") if settings[key] is None}
    path.write_text(json.dumps(settings), encoding="utf-8")


def _words(converted: Path) -> list[str]:
    words: list[str] = json.loads((converted / "vocabulary.json").read_text(encoding="utf-8"))
    return words


class CTranslate2:
    def __init__(self, converted: Path, precision: str, threads: int) -> None:
        self._generator = ctranslate2.Generator(
            str(converted), device="cpu", compute_type=precision, intra_threads=threads
        )
        # It takes the words of its own vocabulary file, not ids.
        self._words = _words(converted)

    def generate(self, prompts: list[list[int]], count: int) -> Written:
        rows = len(prompts)
        tokens = np.zeros((rows, count + 1), dtype=np.int64)
        times = np.zeros(count + 1)

        def written(step: Any) -> bool:
            tokens[step.batch_id, step.step] = step.token_id
            times[step.step] = time.perf_counter()
            return False

        began = time.perf_counter()
        self._generator.generate_batch(
            [[self._words[token] for token in prompt] for prompt in prompts],
            max_length=count + 1,
            min_length=count + 1,
            beam_size=1,
            sampling_topk=1,
            end_token=[],
            include_prompt_in_result=False,
            callback=written,
        )
        return Written(times[0] - began, times[-1] - times[0], tokens, None)


def load(model: Path, converted: Path, precision: str, threads: int) -> CTranslate2:
    return CTranslate2(converted, precision, threads)
