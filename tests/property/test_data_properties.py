"""Pieces encode as the whole does; every window is seen once an epoch; what is written is what is read."""

from __future__ import annotations

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwo.data import TokenData, TokenOrder, batch, prepare, split_text
from gptwo.data.pieces import pieces
from tokenizer_cases import TEXT, tokenizer

# Whitespace, contractions, letters, numbers, punctuation, and what two regex engines may see differently.
tricky = st.text(
    st.sampled_from(" \n\r\t\u00a0\u3000\u2028\x1c\x85'sdtlreZ19½_.,中。あ、한！é\u0301\u200d\ufeff\x00")
    | st.characters(exclude_categories=["Cs"]),
    max_size=200,
)
# Long runs of whitespace are rare above, and are where a wrong cut shows.
tricky |= st.lists(
    st.sampled_from(["\n", "\n\n\n", "   ", "\t\t", "\r\n", "a", "'s", "1,"]), max_size=60
).map("".join)


def cut(text: str, blocks: int, size: int, cap: int = 10**6) -> list[str]:
    parts = [text[start : start + blocks] for start in range(0, len(text), blocks)]
    return list(pieces(parts, piece_characters=size, cap_characters=cap))


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "char", "byte"])
@given(text=tricky, size=st.integers(1, 12))
@settings(max_examples=200)
def test_pieces_encode_as_the_whole_text(kind: str, text: str, size: int) -> None:
    if kind == "char":
        text = "".join(character for character in text if character in TEXT)
    parts = cut(text, 7, size)
    assert "".join(parts) == text
    whole = tokenizer(kind).encode(text)
    assert list(itertools.chain.from_iterable(tokenizer(kind).encode_batch(parts))) == whole


@given(text=tricky, size=st.integers(1, 12), cap=st.integers(12, 40))
def test_where_a_text_is_cut_does_not_depend_on_how_it_was_read(text: str, size: int, cap: int) -> None:
    parts = cut(text, 1, size, cap)
    assert parts == cut(text, 7, size, cap) == cut(text, 1000, size, cap)
    assert all(0 < len(part) <= max(size, cap) for part in parts)


@given(
    tokens=st.integers(2, 5000),
    context=st.integers(1, 300),
    per_step=st.integers(1, 17),
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 5),
)
def test_an_epoch_sees_every_window_once(
    tokens: int, context: int, per_step: int, seed: int, epoch: int
) -> None:
    if tokens <= context:
        context = tokens - 1
    order = TokenOrder(tokens, context, per_step, seed)
    n = order.windows_per_epoch
    first, last = epoch * n, (epoch + 1) * n
    steps = range(first // per_step, -(-last // per_step))
    seen = np.concatenate([order.offsets(step) for step in steps])[first - steps[0] * per_step :][:n]
    phase = seen.min()
    assert sorted(seen.tolist()) == [phase + context * window for window in range(n)]
    assert 0 <= phase < context
    assert seen.max() + context + 1 <= tokens


@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60), min_size=2, max_size=6
    ),
    shard_tokens=st.integers(1, 50),
)
@settings(max_examples=40)
def test_what_is_prepared_is_what_is_read(texts: list[str], shard_tokens: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for number, text in enumerate(texts):
            (folder / f"{number}.txt").write_bytes(text.encode())
        files = [str(folder / f"{number}.txt") for number in range(len(texts))]
        index = prepare(
            files, tokenizer="byte", out=folder / "out", val_fraction=0.4, shard_tokens=shard_tokens
        )
        found: list[bytes] = []
        for split in ("train", "val"):
            data = TokenData.open(folder / "out", split)
            ids = data.read(0, data.tokens)
            documents = [
                bytes(run.tolist())
                for run in np.split(ids, np.flatnonzero(ids == 256) + 1)[:-1]
                for run in [run[:-1]]
            ]
            assert len(documents) == index.splits[split].documents
            assert sum(map(len, documents)) == data.bytes
            assert split_text(index, split) == b"".join(documents)
            assert split_text(index, split, max_bytes=5) == b"".join(documents)[:5]
            found += documents
            assert data.windows([0, data.tokens - 1], 1)[:, 0].tolist() == [ids[0], 256]
        assert sorted(found) == sorted(text.encode() for text in texts)


def test_micro_batches_are_slices_of_one_step(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(map(chr, range(32, 127))) * 20)
    prepare([str(tmp_path / "a.txt")], tokenizer="byte", out=tmp_path / "out", shard_tokens=97)
    data = TokenData.open(tmp_path / "out", "train")
    order = TokenOrder(data.tokens, 16, 6, seed=5)
    inputs, targets = batch(data, order, 3)
    assert inputs.shape == targets.shape == (6, 16)
    for row, start in enumerate(order.offsets(3).tolist()):
        assert inputs[row].tolist() == data.read(start, 16).tolist()
        assert targets[row].tolist() == data.read(start + 1, 16).tolist()
    for start, stop in ((0, 2), (2, 5), (5, 6)):
        part = batch(data, order, 3, start, stop)
        assert np.array_equal(part[0], inputs[start:stop])
        assert np.array_equal(part[1], targets[start:stop])
