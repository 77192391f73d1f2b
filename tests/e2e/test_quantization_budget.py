"""What 8 and 4 bits may cost a model that has learned something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import done

SOURCE = Path(__file__).parents[2] / "src"
# By how much perplexity on held-out text may rise, and the least share of tokens whose most probable one stays.
BUDGETS = {"int8": (0.001, 0.97), "int4": (0.02, 0.85)}


@pytest.mark.long
def test_a_trained_model_stays_within_its_budgets(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    done("prepare", SOURCE, "--tokenizer", "byte", "--out", data)
    training = "--model nano --steps 600 --batch-tokens 1024 --warmup-steps 20 --sample-tokens 0 --device cpu"
    done("train", "--data", data, "--out", run, *training.split())
    for dtype, (most, least) in BUDGETS.items():
        out = tmp_path / dtype
        said = done(
            "quantize", run, "--to", dtype, "--out", out, "--data", data, "--limit", 20_000, "--json"
        ).out
        found = json.loads(said)
        assert found["perplexity_before"] < 20, "the model has not learned"
        assert found["perplexity_after"] / found["perplexity_before"] - 1 <= most
        assert found["top1_agreement"] >= least
