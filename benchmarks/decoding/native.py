"""gptwo's native engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from decoding.engines import Written, greedy
from gptwo import load as load_model


class Ours:
    """Any engine of gptwo's, through its ``Session``."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def generate(self, prompts: list[list[int]], count: int) -> Written:
        slots = list(range(len(prompts)))
        session = self._engine.start(slots=len(slots), capacity=len(prompts[0]) + count)
        tokens = [np.array(prompt, dtype=np.int64) for prompt in prompts]

        def next_ids(last: np.ndarray[Any, Any]) -> Any:
            tops = session.read_top(slots, list(last[:, None]), [1] * len(slots), 1)
            return np.concatenate([top.ids_nk[:, 0] for top in tops])

        return greedy(lambda: session.prefill(slots, tokens), next_ids, count)


def load(model: Path, converted: Path, precision: str, threads: int) -> Ours:
    return Ours(load_model(model, engine="native", dtype=precision, threads=threads).engine)
