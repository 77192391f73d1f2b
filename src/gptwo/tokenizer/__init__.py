"""Text to token ids and back: GPT-2's byte-level BPE, a BPE trained on your text, characters, bytes. No torch."""

from gptwo.tokenizer.build import build_byte, build_char, build_gpt2, train_bpe
from gptwo.tokenizer.resolve import find_gpt2, resolve_tokenizer
from gptwo.tokenizer.stream import TextStream
from gptwo.tokenizer.tokenizer import EOT, Tokenizer

__all__ = [
    "EOT",
    "TextStream",
    "Tokenizer",
    "build_byte",
    "build_char",
    "build_gpt2",
    "find_gpt2",
    "resolve_tokenizer",
    "train_bpe",
]
