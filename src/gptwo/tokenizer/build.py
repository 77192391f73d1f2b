"""Tokenizers made here: from GPT-2's files, trained on text, of characters, of bytes. All end with <|endoftext|>."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from gptwo.base.errors import TokenizerError
from gptwo.tokenizer import bytelevel
from gptwo.tokenizer.tokenizer import EOT, Tokenizer

BYTES = 256


def build_gpt2(vocab: Path, merges: Path) -> Tokenizer:
    """GPT-2's byte-level BPE from ``vocab.json`` + ``merges.txt`` (the same as ``encoder.json`` + ``vocab.bpe``)."""
    for file in (vocab, merges):
        if not file.is_file():
            raise TokenizerError(f"there is no file {file}; expected a GPT-2 vocabulary and its merges")
    try:
        model = models.BPE.from_file(str(vocab), str(merges))
    except Exception as error:  # `tokenizers` raises bare Exception for files it cannot parse
        raise TokenizerError(
            f"{vocab} and {merges} are not a BPE vocabulary with its merges: {error}"
        ) from error
    return Tokenizer(_byte_level(model, split=True))


def train_bpe(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE with GPT-2's pre-tokenization, learned from ``texts``: the same texts, the same vocabulary.

    ``vocab_size`` counts the 256 bytes, the merges and ``<|endoftext|>``; a short text may have fewer pairs worth
    merging (seen twice or more) and give fewer. Source: Sennrich et al. 2016; Radford et al. 2019, §2.2.
    """
    if vocab_size < BYTES + 1:
        raise TokenizerError(
            f"vocab_size={vocab_size} is too small for a byte-level BPE; expected at least {BYTES + 1}"
        )
    if vocab_size > 1 << 24:
        raise TokenizerError(f"vocab_size={vocab_size} is too large; expected at most {1 << 24}")
    backend = _byte_level(models.BPE(), split=True, with_eot=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        show_progress=False,
        # Every byte is in the alphabet, seen or not, so that no text is unknown. Sorted: the library returns a set.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(texts, trainer)
    _add_eot(backend)
    return Tokenizer(backend)


def build_char(texts: Iterable[str]) -> Tokenizer:
    """One id for each code point that occurs in ``texts``, in sorted order, then ``<|endoftext|>``."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    if not characters:
        raise TokenizerError("the text is empty; expected at least one character to make a vocabulary of")
    surrogate = next((c for c in sorted(characters) if "\ud800" <= c <= "\udfff"), None)
    if surrogate is not None:
        raise TokenizerError(f"lone surrogate U+{ord(surrogate):04X} is not a character; expected UTF-8 text")
    # A BPE without merges is a character model that every version of transformers loads.
    vocabulary = {character: id_ for id_, character in enumerate(sorted(characters))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.decoder = decoders.Fuse()
    _add_eot(backend)
    return Tokenizer(backend)


def build_byte() -> Tokenizer:
    """id = the byte's value, 0..255; 256 = ``<|endoftext|>``."""
    vocabulary = {character: byte for byte, character in bytelevel.CHARACTER_OF_BYTE.items()}
    return Tokenizer(_byte_level(models.BPE(vocab=vocabulary, merges=[]), split=False))


def _byte_level(model: models.BPE, *, split: bool, with_eot: bool = True) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split)
    backend.decoder = decoders.ByteLevel()
    if with_eot:
        _add_eot(backend)
    return backend


def _add_eot(backend: tokenizers.Tokenizer) -> None:
    backend.add_special_tokens([AddedToken(EOT, special=True, normalized=False)])
