"""A model of random weights: any size, the same from the same seed, and with nothing at 0 or 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gptwo
from gptwo.base.errors import ConfigError
from gptwo.checkpoint.weights import load_weights
from gptwo.perf.random_model import write_random_model

PEAK = """
import numpy as np
from gptwo.base.memory import forget_peak, resident_bytes
before, _ = resident_bytes()
np.ones(200_000_000, dtype=np.uint8)
_, peak = resident_bytes()
forget_peak()
print(before, peak, *resident_bytes())
"""


def test_it_is_a_model_as_any_other(tmp_path: Path) -> None:
    write_random_model("nano", tmp_path / "a", seed=1)
    write_random_model("nano", tmp_path / "b", seed=1)
    write_random_model("nano", tmp_path / "c", seed=2)
    first, same, other = (load_weights(tmp_path / name, device="cpu") for name in "abc")
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert all(tensor.dtype == torch.float32 for tensor in first.values())
    model = gptwo.load(tmp_path / "a", device="cpu")
    assert model.config.vocab_size == model.tokenizer.vocab_size == 257
    assert len(model.generate("The", max_new_tokens=3, seed=0).tokens) == 3


def test_an_unknown_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no size 'huge'"):
        write_random_model("huge", tmp_path / "a")


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux, whose peaks can be reset"
)
def test_a_peak_is_forgotten() -> None:
    # In a process of its own: in this one other tests' memory comes and goes.
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    before, peak, after, peak_after = map(int, done.stdout.split())
    assert peak - before > 150_000_000
    assert peak_after - after < 50_000_000
