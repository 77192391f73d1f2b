"""What ranks exchange, against cases worked by hand."""

from __future__ import annotations

import pytest

from gptwo.config import PRESETS
from gptwo.perf.communication import communication

GPT2 = PRESETS["gpt2"]
GRADIENTS = 4 * 124_439_808


def test_ddp_sends_each_gradient_twice_around_the_ring() -> None:
    found = communication(GPT2, ranks=8, parallel="ddp", micro_batches=5, compute_s=3.0, link_bytes_per_s=1e9)
    # 2 · 7/8 · 4 · 124,439,808 bytes over 1 GB/s.
    assert found.bytes_per_step == 871_078_656
    assert found.seconds == pytest.approx(0.871, abs=1e-3)
    # The last of 5 micro-batches computes for 0.6 s, and its backward pass, 0.4 s, hides as much.
    assert found.exposed_seconds == pytest.approx(0.871078656 - 0.4)
    assert found.share == pytest.approx(0.471078656 / 3.471078656)


def test_ddp_hides_behind_a_long_backward_pass() -> None:
    found = communication(
        GPT2, ranks=2, parallel="ddp", micro_batches=1, compute_s=3.0, link_bytes_per_s=300e9
    )
    assert found.bytes_per_step == GRADIENTS
    assert (found.exposed_seconds, found.share) == (0.0, 0.0)


def test_fsdp_moves_the_weights_for_every_micro_batch() -> None:
    found = communication(
        GPT2, ranks=4, parallel="fsdp", micro_batches=2, compute_s=0.5, link_bytes_per_s=1e9
    )
    # Two micro-batches · (two gathers + one scatter of the blocks, one and one of the rest) · 3/4.
    rest = 4 * (50_257 + 1_024 + 2) * 768
    assert found.bytes_per_step == 2 * (3 * (GRADIENTS - rest) + 2 * rest) * 3 // 4
    assert found.share == pytest.approx(found.exposed_seconds / (found.exposed_seconds + 0.5))
    assert found.exposed_seconds == pytest.approx(found.bytes_per_step / 1e9 - 0.5)
