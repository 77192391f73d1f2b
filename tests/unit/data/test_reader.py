"""Reading prepared shards: across their borders, and never past damage."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from gptwo.base.errors import DataError
from gptwo.data import TokenData, TokenOrder, batch, load_index, prepare

TEXT = "The quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text(TEXT)
    prepare([str(tmp_path / "a.txt")], tokenizer="byte", out=tmp_path / "out", shard_tokens=100)
    return tmp_path / "out"


def test_reads_cross_shards(folder: Path) -> None:
    data = TokenData.open(folder, "train")
    whole = TEXT[: data.tokens].encode()
    assert data.tokens == len(whole) == 1620
    for start, count in ((0, 1620), (99, 2), (100, 100), (50, 1000), (1619, 1), (1620, 0), (7, 0)):
        ids = data.read(start, count)
        assert ids.dtype == np.int64
        assert bytes(ids.tolist()) == whole[start : start + count]


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (1620, 1), (0, 1621), (5, -1)])
def test_reads_out_of_range_are_refused(start: int, count: int, folder: Path) -> None:
    with pytest.raises(DataError, match="out of range; there are 1620"):
        TokenData.open(folder, "train").read(start, count)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("size", [0, 199, 198, 202])
def test_a_cut_or_grown_shard_is_named(size: int, verify: bool, folder: Path) -> None:
    os.truncate(folder / "train-00003.bin", size)
    with pytest.raises(
        DataError, match=rf"train-00003.bin has {size} bytes; expected 200 \(100 tokens of 2 bytes\)"
    ):
        TokenData.open(folder, "train", verify=verify)
    assert TokenData.open(folder, "val").tokens == 180


def flip(file: Path, offset: int, value: int) -> None:
    content = bytearray(file.read_bytes())
    content[2 * offset : 2 * offset + 2] = value.to_bytes(2, "little")
    file.write_bytes(content)


def test_an_altered_shard_is_named_even_after_it_was_once_whole(folder: Path) -> None:
    TokenData.open(folder, "train")
    flip(folder / "train-00002.bin", 50, 65)
    os.utime(folder / "train-00002.bin", ns=(1, 1))
    with pytest.raises(DataError, match=r"train-00002.bin was altered: its SHA-256 is"):
        TokenData.open(folder, "train")
    assert TokenData.open(folder, "train", verify=False).read(250, 1).tolist() == [65]


def test_a_token_beyond_the_vocabulary_is_named_with_its_offset(folder: Path) -> None:
    flip(folder / "train-00002.bin", 50, 257)
    flip(folder / "train-00002.bin", 60, 65535)
    data = TokenData.open(folder, "train", verify=False)
    data.read(0, 250)
    message = r"train-00002.bin: token 257 at offset 50 is not below the vocabulary size 257"
    with pytest.raises(DataError, match=message):
        data.read(240, 50)
    with pytest.raises(DataError, match=message):
        batch(data, TokenOrder(data.tokens, data.tokens - 1, 1, seed=0), 0)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "train-00001.bin").unlink()
    with pytest.raises(DataError, match=r"train-00001.bin is missing though the index names it"):
        TokenData.open(folder, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no .*index.json; expected a folder that `gptwo prepare` made"),
        ("{", "cannot be read"),
        ("[]", "is not the index of prepared data"),
        ('{"format": "other"}', "is not the index of prepared data"),
        ('{"format": "gptwo-data", "version": 2}', "has version 2; this gptwo reads version 1"),
        ('{"format": "gptwo-data", "version": 1}', "is incomplete"),
    ],
)
def test_an_index_that_is_not_one_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_index(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_index_that_does_not_add_up_is_refused(folder: Path) -> None:
    content = json.loads((folder / "index.json").read_text())
    content["splits"]["train"]["shards"].pop()
    (folder / "index.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="do not add up to 1620"):
        TokenData.open(folder, "train")


def test_an_order_over_other_data_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="the order is over 100 tokens and the data has 1620"):
        batch(TokenData.open(folder, "train"), TokenOrder(100, 8, 2, seed=0), 0)
