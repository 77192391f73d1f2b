"""``gptwo.explain``: what a user gives and gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gptwo
from gptwo.base.errors import CheckpointError, ConfigError, ContextLengthError, TokenizerError
from gptwo.config import GPT2Config
from gptwo.explanation.edits import Edit, Patch
from gptwo.infer.api import LanguageModel
from gptwo.tokenizer import build_byte
from random_checkpoint import write_random_checkpoint
from tolerance import FLOAT64, Tolerance

CONFIG = GPT2Config(n_layer=2, n_head=4, n_embd=32, context=32, vocab_size=257)
FLOAT32 = Tolerance(atol=1e-4, rtol=1e-5, why="fp32 against fp64, logits near 10")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_random_checkpoint(
        tmp_path_factory.mktemp("model"), CONFIG, eot_id=256, dtype=torch.float32
    )
    build_byte().save(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return gptwo.load(folder, device="cpu")


def test_a_text_its_ids_and_a_path_are_the_same(folder: Path, model: LanguageModel) -> None:
    text = gptwo.explain(model, "the sea")
    assert text.tokens.tolist() == list(b"the sea")
    for other in (
        gptwo.explain(model, list(b"the sea")),
        gptwo.explain(str(folder), "the sea"),
        gptwo.explain(folder, "the sea"),
    ):
        assert set(other) == set(text)
        for name, array in text.items():
            assert array.dtype == np.float32
            assert np.array_equal(other[name], array), name


def test_its_logits_are_the_models(model: LanguageModel) -> None:
    found = gptwo.explain(model, "the sea")
    FLOAT32.assert_close(found.logits, model.logits(list(b"the sea")), "logits")
    FLOAT32.assert_close(-found.surprisal[1:], model.score(list(b"the sea")), "score")


def test_an_empty_text_is_the_end_of_text(model: LanguageModel) -> None:
    assert gptwo.explain(model, "").tokens.tolist() == [256]


def test_float64_may_be_asked_for(model: LanguageModel) -> None:
    found = gptwo.explain(model, "the sea", dtype="fp64")
    assert found["blocks.0.q"].dtype == np.float64
    FLOAT32.assert_close(gptwo.explain(model, "the sea").logits, found.logits, "logits")


def test_parts_are_switched_off_and_patched(model: LanguageModel) -> None:
    def explain(**changes: Any) -> gptwo.Explanation:
        return gptwo.explain(model, "the sea", dtype="fp64", **changes)

    plain, other = explain(), gptwo.explain(model, "the sky", dtype="fp64")
    off = explain(ablate=[(0, 1), (1, "mlp", "mean"), Edit(1, 3)])
    assert not off["blocks.0.heads"][1].any()
    assert not off["blocks.1.heads"][3].any()
    assert np.ptp(off["blocks.1.mlp_output"], axis=0).max() == 0
    FLOAT64.assert_close(off["blocks.0.heads"][0], plain["blocks.0.heads"][0], "another head")
    patched = explain(patch=("the sky", [(0, 2), (1, "mlp")]))
    FLOAT64.assert_close(patched["blocks.0.heads"][2], other["blocks.0.heads"][2], "the patched head")
    FLOAT64.assert_close(patched["blocks.1.mlp_output"], other["blocks.1.mlp_output"], "the patched MLP")
    assert np.abs(patched.logits - plain.logits).max() > 1e-3
    same = explain(patch=Patch(list(b"the sky"), [(0, 2), (1, "mlp")]))
    FLOAT64.assert_close(same.logits, patched.logits, "by ids")
    everything = [(i, part) for i in range(2) for part in (*range(4), "mlp")]
    FLOAT64.assert_close(
        explain(patch=("the sky", everything)).kept["residual"] - plain.kept["embedding"],
        other.kept["residual"] - other.kept["embedding"],
        "all that the other prompt adds",
    )
    both = explain(ablate=[(0, 2)], patch=("the sky", [(0, 3)]))
    assert not both["blocks.0.heads"][2].any()
    FLOAT64.assert_close(
        both["blocks.0.heads"][3], other["blocks.0.heads"][3], "the patched head, beside one that is off"
    )


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"ablate": [(2, 0)]}, ConfigError, "layer=2 is not possible; expected 0 to 1"),
        ({"ablate": (0, 1)}, ConfigError, "ablate=0 is not possible; expected (layer, head)"),
        ({"ablate": 3}, ConfigError, "ablate=3 is not possible; expected a list"),
        ({"ablate": "mlp"}, ConfigError, "ablate='mlp' is not possible; expected a list"),
        ({"ablate": [(0, 4)]}, ConfigError, "head=4 is not possible; expected 0 to 3 or 'mlp'"),
        ({"ablate": [(0, 0, "half")]}, ConfigError, "to='half' is not possible"),
        ({"patch": ("the sky above", [(0, 0)])}, ConfigError, "has 13 tokens; expected 7"),
        ({"patch": ("the sky", [(0, 7)])}, ConfigError, "head=7"),
        ({"patch": ("the sky", (0, 1))}, ConfigError, "0 names no place"),
        ({"patch": ("the sky", 1)}, ConfigError, "patch=1 is not possible; expected a list"),
        ({"patch": ("the sky",)}, ConfigError, "patch=('the sky',) is not possible; expected (another prompt"),
        ({"ablate": [(0, 2), (0, 2, "mean")]}, ConfigError, "layer 0, head 2 is changed twice; expected once"),
        ({"ablate": [(1, "mlp")], "patch": ("the sky", [(1, "mlp")])}, ConfigError, "its mlp is changed twice"),
        ({"patch": ("the sky", [(0, 1), (0, 1)])}, ConfigError, "layer 0, head 1 is changed twice"),
        ({"patch": 3}, ConfigError, "patch=3 is not possible; expected (another prompt"),
        ({"dtype": "int8"}, ConfigError, "dtype='int8' is not possible for the reference"),
        ({"prompt": "x" * 33}, ContextLengthError, "33 tokens; expected at most the model's context of 32"),
        ({"prompt": [1, 257]}, TokenizerError, "257"),
        ({"model": "no/such/folder"}, CheckpointError, "no/such/folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line(
    model: LanguageModel, asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        gptwo.explain(**{"model": model, "prompt": "the sea", **asked})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
