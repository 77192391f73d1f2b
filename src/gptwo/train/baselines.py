"""What a model must beat for "it learned" to be a figure: a bigram model of bytes, and two compressors."""

from __future__ import annotations

import lzma
import math
import zlib

import numpy as np


def bigram_nats_per_byte(train: bytes, validation: bytes) -> float:
    """Mean of -log p(b_t | b_{t-1}) over the validation bytes, in nats, the first byte given nothing.

    p(b | a) = (n(ab) + 1) / (n(a) + 256), counted on the training bytes: Laplace's rule, so nothing is impossible.
    """
    counts = np.ones((256, 256))
    pairs = np.frombuffer(train, dtype=np.uint8).astype(np.int64)
    counts += np.bincount(pairs[:-1] * 256 + pairs[1:], minlength=256 * 256).reshape(256, 256)
    nats = -np.log(counts / counts.sum(axis=1, keepdims=True))
    text = np.frombuffer(validation, dtype=np.uint8)
    first = math.log(256)
    return float(nats[text[:-1], text[1:]].sum() + first) / len(text)


def zlib_nats_per_byte(text: bytes) -> float:
    """Size of the text under DEFLATE at level 9, in nats per byte of text."""
    return len(zlib.compress(text, level=9)) * 8 * math.log(2) / len(text)


def lzma_nats_per_byte(text: bytes) -> float:
    """Size of the text under LZMA at its strongest preset, in nats per byte of text."""
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) * 8 * math.log(2) / len(text)
