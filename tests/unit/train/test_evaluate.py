from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.tolerance import Tolerance

from gptwo.config import GPT2Config
from gptwo.data import TokenData
from gptwo.model import build_model
from gptwo.train.baselines import bigram_nats_per_byte, lzma_nats_per_byte, zlib_nats_per_byte
from gptwo.train.evaluate import evaluate

SUMS = Tolerance(rtol=1e-5, why="fp32 losses summed in groups or one by one")


@pytest.mark.parametrize("micro_batch", [1, 4, 1000])
def test_loss_is_that_of_every_window_by_itself(data_folder: Path, micro_batch: int) -> None:
    data = TokenData.open(data_folder, "val")
    config = GPT2Config(n_layer=1, n_head=1, n_embd=8, context=50, vocab_size=data.vocab_size, dropout=0.5)
    model = build_model(config, seed=0, device="cpu").train()
    result = evaluate(model, data, micro_batch=micro_batch)
    assert model.training, "evaluation leaves the model in the mode it found it in"
    model.eval()
    nats = 0.0
    for start in range(0, data.tokens - 1, 50):
        count = min(51, data.tokens - start)
        row = torch.from_numpy(data.read(start, count))[None]
        nats += float(model.loss(row[:, :-1], row[:, 1:], reduction="sum").detach())
    SUMS.assert_close(result.nats_per_token, nats / (data.tokens - 1))
    assert result.tokens == data.tokens - 1
    # Byte tokens: as many predicted bytes as tokens, so both losses are one.
    SUMS.assert_close(result.nats_per_byte, result.nats_per_token)


def test_max_tokens_evaluates_the_first_so_many(data_folder: Path) -> None:
    data = TokenData.open(data_folder, "val")
    config = GPT2Config(n_layer=1, n_head=1, n_embd=8, context=50, vocab_size=data.vocab_size, dropout=0.0)
    model = build_model(config, seed=0, device="cpu")
    part = evaluate(model, data, max_tokens=70)
    assert part.tokens == 70
    row = torch.from_numpy(data.read(0, 71))
    first = model.loss(row[None, :50], row[None, 1:51], reduction="sum")
    second = model.loss(row[None, 50:70], row[None, 51:71], reduction="sum")
    SUMS.assert_close(part.nats_per_token, float((first + second).detach()) / 70)


def test_bigram_by_hand() -> None:
    # Trained on "abab": n(ab)=2, n(ba)=1, n(a·)=2, n(b·)=1. On "ab": log 256 for the a, then (2+1)/(2+256).
    expected = (math.log(256) - math.log(3 / 258)) / 2
    assert bigram_nats_per_byte(b"abab", b"ab") == pytest.approx(expected)


def test_compressors_count_bits_of_the_compressed_text() -> None:
    import lzma
    import zlib

    text = b"as it was in the beginning " * 40
    assert zlib_nats_per_byte(text) == pytest.approx(
        len(zlib.compress(text, 9)) * 8 * math.log(2) / len(text)
    )
    assert lzma_nats_per_byte(text) == pytest.approx(
        len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) * 8 * math.log(2) / len(text)
    )
    assert zlib_nats_per_byte(text) < zlib_nats_per_byte(bytes(range(256)))
