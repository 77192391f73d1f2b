"""One small tokenizer of each kind, and the text that tries them."""

from __future__ import annotations

import functools

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from gptwo.tokenizer import EOT, Tokenizer, build_byte, build_char, find_gpt2, train_bpe

TEXT = (
    "First Citizen:\r\nBefore we proceed any further, hear me speak.\n\n  All:\tSpeak, speak!\n"
    "Tiếng Việt có dấu; 中文没有空格，但是有标点。 नमस्ते दुनिया 👩‍👩‍👧 e\u0301\u00a0\u3000\u2028x\u0085y\n"
    "it's we'LL they'd 123 4½ ² Ⅷ snake_case camelCase   trailing   \n\n\n    def f(x):\n        return x**2\n"
    f"a {EOT} in the text \ufeff\ufffd\u200b\x00\x1c end"
)
KINDS = ("gpt2", "bpe", "char", "byte", "other")


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    """The tokenizer of a kind; the char one knows the characters of ``TEXT``."""
    if kind == "gpt2":
        return find_gpt2()
    if kind == "bpe":
        return train_bpe(iter([TEXT] * 3), 400)
    if kind == "char":
        return build_char([TEXT])
    if kind == "byte":
        return build_byte()
    return sentencepiece_like()


def sentencepiece_like() -> Tokenizer:
    """A BPE with visible spaces and byte tokens, as SentencePiece makes: another family than ours."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    for character in "\u2581abcdefghijklmnopqrstuvwxyz":
        vocabulary[character] = len(vocabulary)
    vocabulary["\u2581a"] = len(vocabulary)
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=[("\u2581", "a")], byte_fallback=True, fuse_unk=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    return Tokenizer(backend, {"eos_token": "</s>"})
