"""The benchmarks run, and the peer is what it is said to be. Their figures are no test's business."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that the benchmarks' history goes into; their modules can be imported."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import record

    monkeypatch.setattr(record, "HISTORY", tmp_path / "history")
    return tmp_path / "history"


def test_shakespeare_prints_its_bars_and_keeps_them(
    benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import train

    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question. " * 60, encoding="utf-8")
    train.shakespeare(text, rounds=2, peer_steps=3)
    printed = capsys.readouterr().out
    assert printed.count("HIT: ") + printed.count("MISS: ") == 2
    (line,) = (benchmarks / "train.jsonl").read_text(encoding="utf-8").splitlines()
    kept = json.loads(line)
    assert kept["rounds"] == 2
    assert kept["machine"]["torch"] == torch.__version__
    for name in ("peer_s", "peer_loss", "quarter_loss", "whole_loss", "whole_loss_at_64"):
        assert len(kept["figures"][name]["values"]) == 2
    assert set(kept["curves"]) == {"peer", "quarter", "whole"}


def test_the_peer_is_the_recipe_of_0_8_million_parameters_and_learns(benchmarks: Path) -> None:
    import nanogpt

    text = torch.arange(2000) % 7
    model, curve = nanogpt.train(text, 65, seed=0, steps=40)
    assert sum(p.numel() for p in model.parameters()) == 804_096
    losses = [loss for _, loss in curve]
    assert losses[0] == pytest.approx(4.17, abs=0.1), "log 65"
    assert losses[-1] < losses[0] - 1
    assert nanogpt.evaluate(model, text) == pytest.approx(losses[-1], abs=0.5)
    assert [nanogpt.learning_rate(s, 2000) for s in (100, 2000)] == pytest.approx([1e-3, 1e-4])


def test_a_loss_within_the_context_is_asked_of_the_same_model(benchmarks: Path, tmp_path: Path) -> None:
    import train

    from gptwo.config import GPT2Config
    from gptwo.data import TokenData, prepare
    from gptwo.model import build_model
    from gptwo.train.evaluate import evaluate

    (tmp_path / "text.txt").write_text("abcdefg " * 100, encoding="utf-8")
    prepare([str(tmp_path / "text.txt")], tokenizer="char", out=tmp_path / "data")
    data = TokenData.open(tmp_path / "data", "val")
    shape = GPT2Config(n_layer=1, n_head=1, n_embd=8, context=16, vocab_size=8, dropout=0.0)
    model = build_model(shape, seed=0, device="cpu")
    assert train.loss_at_context(model, data, 16) == evaluate(model, data).nats_per_token
    assert train.loss_at_context(model, data, 4) != train.loss_at_context(model, data, 16)
    assert model.config == shape


@pytest.mark.parametrize("engine", ["plain", "transformers"])
def test_engines_of_the_step_compute_the_same(engine: str, benchmarks: Path) -> None:
    if engine == "transformers":
        pytest.importorskip("transformers", reason="needs transformers: pip install 'gptwo[dev]'")
    import step
    import step_worker

    gap = step_worker.compare(engine, "nano")
    assert gap["loss"] < step.LOSS_TOLERANCE
    assert 0 < gap["gradients"] < step.GRADIENT_TOLERANCE


def test_the_step_is_held_against_the_best_peer(benchmarks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import step

    def row(tokens_per_s: float, peak_bytes: int) -> dict[str, float]:
        return {
            "tokens_per_s": tokens_per_s,
            "peak_bytes": peak_bytes,
            "share_of_ceiling": tokens_per_s / 100,
        }

    engines = {"gptwo": row(90.0, 60), "slow and small": row(50.0, 99), "fast and large": row(76.0, 200)}
    bars = step.verdicts({"shape": [4, 1024], "engines": engines})
    assert list(bars.values()) == [True, False, False], "0.9 of the ceiling, 1.184 x, 0.606 of the memory"
    assert capsys.readouterr().out.count("MISS") == 2
    assert len(step.verdicts({"shape": [4, 64], "engines": engines})) == 2, "memory counts at the long shape"


def test_the_steps_of_an_engine_are_timed_in_a_process_of_its_own(benchmarks: Path) -> None:
    import step

    result = step.ask("run_engine", "gptwo", "nano", 1, 8)
    assert len(result["seconds"]) == 5
    assert result["peak_bytes"] > 100e6
    with pytest.raises(RuntimeError, match="ConfigError: there is no size 'vast'"):
        step.ask("run_engine", "gptwo", "vast", 1, 8)
