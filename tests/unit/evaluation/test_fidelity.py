"""``compare`` against its definition, and against a model that is the same one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gptwo.base.errors import ConfigError, DivergedError
from gptwo.config import GPT2Config
from gptwo.evaluation.fidelity import compare
from gptwo.evaluation.loss import open_text
from gptwo.infer.api import LanguageModel
from gptwo.tokenizer.build import build_byte
from tolerance import Tolerance

FLOAT64 = Tolerance(rtol=1e-9, why="float64, sums of some 1e5 terms")
TEXT = "a text of several windows, the last of which is shorter"
C = 10


class TableEngine:
    """Logits that follow from the token and its place in the window alone."""

    description = "a table"

    def __init__(self, seed: int, *, context: int = C) -> None:
        self.config = GPT2Config(n_layer=1, n_head=1, n_embd=1, context=context, vocab_size=257)
        self.table = np.random.default_rng(seed).normal(0, 3, (context, 257, 257)).astype(np.float32)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        assert len(tokens) <= self.config.context
        return self.table[np.arange(len(tokens)), tokens]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_byte().save(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def model(engine: TableEngine, folder: Path) -> LanguageModel:
    return LanguageModel(engine, folder)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [None, 23])
def test_the_figures_are_their_definitions(folder: Path, limit: int | None) -> None:
    before, after = TableEngine(0), TableEngine(1)
    ids = np.array(list(TEXT.encode()))[: None if limit is None else limit + 1]
    rows = []
    for i in range(len(ids) - 1):
        p, q = (np.exp(engine.table[i % C, ids[i]].astype(np.float64)) for engine in (before, after))
        p, q = p / p.sum(), q / q.sum()
        rows.append(
            [
                -np.log(p[ids[i + 1]]),
                -np.log(q[ids[i + 1]]),
                (p * np.log(p / q)).sum(),
                p.argmax() == q.argmax(),
            ]
        )
    first = model(before, folder)
    found = compare(first, model(after, folder), open_text(first, folder / "text.txt"), limit=limit)
    means = np.array(rows, dtype=np.float64).mean(axis=0)
    FLOAT64.assert_close(math.log(found.perplexity_before), means[0])
    FLOAT64.assert_close(math.log(found.perplexity_after), means[1])
    FLOAT64.assert_close(found.kl, means[2])
    assert found.top1_agreement == means[3]
    assert found.tokens == len(ids) - 1


def test_a_model_is_near_itself(folder: Path) -> None:
    one = model(TableEngine(0), folder)
    found = compare(one, one, open_text(one, folder / "text.txt"))
    assert (found.kl, found.top1_agreement) == (0, 1)
    assert found.perplexity_before == found.perplexity_after


def test_what_cannot_be_compared_is_refused(folder: Path) -> None:
    one = model(TableEngine(0), folder)
    text = open_text(one, folder / "text.txt")
    with pytest.raises(ConfigError, match="have different shapes"):
        compare(one, model(TableEngine(0, context=C + 1), folder), text)
    with pytest.raises(ConfigError, match="limit=0"):
        compare(one, one, text, limit=0)
    broken = TableEngine(0)
    broken.table[3] = np.nan
    with pytest.raises(DivergedError, match="no finite number"):
        compare(one, model(broken, folder), text)
