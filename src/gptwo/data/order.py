"""Which tokens step s sees, from (seed, s) alone: nothing to save, nothing to restore, the same on every machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gptwo.base.errors import DataError
from gptwo.data.index import Ids
from gptwo.data.reader import TokenData

_U64 = npt.NDArray[np.uint64]
_ROUNDS = 8
_BLOCK_SEQUENCES = 4096


class TokenOrder:
    """Windows of ``context`` tokens without replacement, in a new order and with a new phase each epoch.

    tokens N · context C · sequences_per_step B · seed. An epoch has n = ⌊(N − C) / C⌋ windows (one when N < 2C); window
    w of epoch e starts at phase(e) + C·w, 0 <= phase < C, and its targets are shifted by one, so it reads C + 1 tokens.
    Sample i = step·B + b belongs to epoch ⌊i / n⌋ and takes the window π_e(i mod n), π_e a permutation of the n
    windows by a Feistel network with cycle walking (Black and Rogaway 2002): O(1) memory however large N is.
    Raises ``DataError`` when N < C + 1.
    """

    def __init__(self, tokens: int, context: int, sequences_per_step: int, seed: int) -> None:
        if context < 1 or sequences_per_step < 1:
            raise DataError(
                f"context={context} and sequences_per_step={sequences_per_step}; expected at least 1 of each"
            )
        if tokens < context + 1:
            raise DataError(
                f"the data has {tokens} tokens; a context of {context} needs at least {context + 1}: "
                "give more text or a smaller context"
            )
        self.tokens = tokens
        self.context = context
        self.sequences_per_step = sequences_per_step
        self.seed = seed
        # With N >= 2C every phase leaves room for the same n windows, so epochs are equal and division finds them.
        self._phases = context if tokens >= 2 * context else 1
        self.windows_per_epoch: int = max(1, (tokens - context) // context)
        # The network permutes numbers of this many bits, so fewer than 2 n values, split into a left and a right part.
        bits = (self.windows_per_epoch - 1).bit_length()
        self._right_bits = (bits + 1) // 2
        self._left_bits = bits - self._right_bits
        # A call costs a hundred small array operations whatever its size, so several steps are computed at once.
        self._block_steps = max(1, _BLOCK_SEQUENCES // sequences_per_step)
        self._block: tuple[int, Ids] = (-1, np.empty(0, dtype=np.int64))

    def offsets(self, step: int) -> Ids:
        """Start of each sequence of ``step`` (0, 1, ...), shape (B,), in tokens."""
        if step < 0:
            raise DataError(f"step={step} is not possible; expected 0 or more")
        number, within = divmod(step, self._block_steps)
        block = self._block
        if block[0] != number:
            block = (number, self._samples(number * self._block_steps * self.sequences_per_step))
            self._block = block
        return block[1][within * self.sequences_per_step : (within + 1) * self.sequences_per_step].copy()

    def _samples(self, first: int) -> Ids:
        """Offsets of one block's samples, from number ``first`` on."""
        # Python's integers here: step · B may pass 64 bits long before the data does.
        first_epoch, first_position = divmod(first, self.windows_per_epoch)
        count = self._block_steps * self.sequences_per_step
        ahead = np.arange(count, dtype=np.uint64) + np.uint64(first_position)
        epoch_ahead, position = np.divmod(ahead, np.uint64(self.windows_per_epoch))
        epoch = epoch_ahead + np.uint64(first_epoch % (1 << 64))
        key = _mix(_mix(np.full(1, self.seed % (1 << 64), np.uint64)) + epoch)
        phase = _mix(key + np.uint64(_ROUNDS)) % np.uint64(self._phases)
        window = self._permute(position, key)
        return (phase + np.uint64(self.context) * window).astype(np.int64)

    def _permute(self, position: _U64, key: _U64) -> _U64:
        n = np.uint64(self.windows_per_epoch)
        window = self._feistel(position, key)
        # Cycle walking: a value outside 0..n-1 is sent through again, which keeps the map one to one on 0..n-1. More
        # than half of all values are inside, so each is sent through fewer than twice on average.
        while (outside := window >= n).any():
            window[outside] = self._feistel(window[outside], key[outside])
        return window

    def _feistel(self, value: _U64, key: _U64) -> _U64:
        right_bits = np.uint64(self._right_bits)
        left_mask, right_mask = np.uint64((1 << self._left_bits) - 1), np.uint64((1 << self._right_bits) - 1)
        left, right = value >> right_bits, value & right_mask
        for number in range(0, _ROUNDS, 2):
            left = left ^ (_mix(_mix(key + np.uint64(number)) + right) & left_mask)
            right = right ^ (_mix(_mix(key + np.uint64(number + 1)) + left) & right_mask)
        return (left << right_bits) | right


def _mix(value: _U64) -> _U64:
    """SplitMix64's finalizer (Steele et al. 2014): 64 bits in, 64 well-mixed bits out; array arithmetic wraps."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def batch(
    data: TokenData, order: TokenOrder, step: int, start: int = 0, stop: int | None = None
) -> tuple[Ids, Ids]:
    """Inputs and targets of rows ``start``..``stop`` of ``step``, each (stop − start, C) int64; targets are one ahead.

    Micro-batches are slices of one step: ``batch(d, o, s, 0, 2)`` and ``batch(d, o, s, 2, 4)`` are its first four rows.
    """
    if order.tokens != data.tokens:
        raise DataError(f"the order is over {order.tokens} tokens and the data has {data.tokens}")
    windows = data.windows(order.offsets(step)[start:stop], order.context + 1)
    return windows[:, :-1], windows[:, 1:]
