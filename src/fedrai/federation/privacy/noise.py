"""Gaussian numbers from a key, the same for the same key, and not to be told without it.

The stream is ChaCha20's (RFC 8439), as 53-bit uniforms, by Box and Muller's method in float64. Each
number is half the sum of four independent ones: from a single float64 of such a method the exact
value before the noise was added can be guessed now and then, since not all sums are possible
(Mironov, CCS 2012; Holohan and Braghin, arXiv 2107.10138, for the sum of four). What is published
is rounded to float32, which coarsens it further. This makes such attacks impractical; it is no
proof as discrete noise would be. Tails end at 17 standard deviations (four times 8.6, halved),
which adds less than 2^-53 a number to delta.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from fedrai.errors import FederationError

KEY = 32  # bytes
TERMS = 4  # independent numbers in each
CHUNK = 2**17  # numbers drawn at once
Doubles = npt.NDArray[np.float64]


class Gaussian:
    """A stream of independent standard normal numbers.

    Args:
        key: 32 bytes; used for one stream only.

    Raises:
        FederationError: the key has another length.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY:
            raise FederationError(f"a key of noise has {KEY} bytes, not {len(key)}")
        self._stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def draw(self, count: int) -> Doubles:
        """The next numbers, float64 of shape (count,)."""
        parts = [self._chunk(min(CHUNK, count - at)) for at in range(0, count, CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _chunk(self, count: int) -> Doubles:
        pairs = TERMS // 2
        first, second = self._uniform(2 * pairs * count).reshape(2, pairs, count)
        radius = np.sqrt(-2 * np.log1p(-first))  # of 1 - u in (0, 1]
        angle = 2 * np.pi * second
        terms = radius * np.cos(angle) + radius * np.sin(angle)
        return np.asarray(terms.sum(axis=0) / math.sqrt(TERMS), np.float64)

    def _uniform(self, count: int) -> Doubles:
        """Multiples of 2^-53 in [0, 1)."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), "<u8")
        return np.asarray((words >> np.uint64(11)) * 2.0**-53, np.float64)
