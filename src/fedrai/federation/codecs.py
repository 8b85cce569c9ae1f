"""Codecs: arrays of float32 as fewer bytes, and back.

    float32   as it is, four bytes a number
    bf16      the upper half of a float32, rounded to the nearest, ties to even: two bytes
    int8      q scale, whole numbers |q| <= 127 with a scale for each block: one byte and 2 / block
    int4      the same with |q| <= 7, two numbers a byte: half a byte and 2 / block
    top-k     the largest numbers alone, six bytes each: places (uint32, rising), values in bf16

A scale is the largest number of its block divided by 127 or 7 and rounded *up* to a bf16, so that
no number is beyond it. Rounding is to the nearest, ties to even. So the error of a number is half a
scale at most, one message in bf16 is off by 1/256 of a number at most, and all is decided by the
numbers alone: the same ones give the same bytes.

The codec and the count of numbers determine the count of bytes, so a receiver knows before it
reads. Nothing that arrives is trusted: places must rise and lie within the array; scales that are
infinite or no numbers give numbers that are not finite, which `protocol` refuses.

Sources: 1-bit SGD and error feedback, Seide et al. 2014, Karimireddy et al. arXiv 1901.09847;
block scales, Dettmers, arXiv 1511.04561; top-k, Aji and Heafield, arXiv 1704.05021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrai.recipe.messages import Messages

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
LEVELS = {"int8": 127, "int4": 7}


@dataclass(frozen=True, slots=True)
class Codec:
    """One way of writing numbers.

    Attributes:
        kind: "float32", "bf16", "int8", "int4" or "top-k".
        block: numbers with a common scale.
        kept: share of the numbers that "top-k" writes.
    """

    kind: str = "float32"
    block: int = 128
    kept: float = 0.05

    @property
    def is_lossy(self) -> bool:
        """Whether numbers change on the way."""
        return self.kind != "float32"

    @property
    def name(self) -> str:
        """The kind with its setting, so that both sides can compare; empty: float32."""
        settings = {"int8": f"-{self.block}", "int4": f"-{self.block}", "top-k": f"-{self.kept}"}
        return f"{self.kind}{settings.get(self.kind, '')}" if self.is_lossy else ""

    def size(self, count: int) -> int:
        """Bytes of so many numbers."""
        blocks = 2 * math.ceil(count / self.block)
        sizes = {
            "bf16": 2 * count,
            "int8": count + blocks,
            "int4": math.ceil(count / 2) + blocks,
            "top-k": 6 * self._largest(count),
        }
        return sizes.get(self.kind, 4 * count)

    def encode(self, numbers: Floats) -> Bytes:
        """The bytes of an array."""
        if self.kind in LEVELS:
            return self._encode_blocks(numbers)
        if self.kind == "top-k":
            places = _largest(numbers, self._largest(len(numbers)))
            return np.concatenate([_bytes(places), _bytes(_bf16(numbers[places]))])
        return _bytes(_bf16(numbers) if self.kind == "bf16" else numbers)

    def decode(self, data: Bytes, count: int) -> Floats | None:
        """The array in `data`, whose length is `size(count)`; None: it cannot be read.

        Args:
            data: what `encode` gives; not trusted.
            count: numbers of the array.
        """
        if self.kind in LEVELS:
            return self._decode_blocks(data, count)
        if self.kind == "bf16":
            return _float32(data.view("<u2"))
        if self.kind != "top-k":
            return data.view("<f4")
        most = self._largest(count)
        places, values = data[: 4 * most].view("<u4"), data[4 * most :].view("<u2")
        if most and (int(places[-1]) >= count or bool((places[1:] <= places[:-1]).any())):
            return None
        numbers: Floats = np.zeros(count, np.float32)
        numbers[places] = _float32(values)
        return numbers

    def _largest(self, count: int) -> int:
        return min(count, math.ceil(self.kept * count))

    def _encode_blocks(self, numbers: Floats) -> Bytes:
        levels, blocks = LEVELS[self.kind], _blocks(numbers, self.block)
        scales = _bf16_above(np.abs(blocks).max(axis=1, initial=0) / np.float32(levels))
        steps = _float32(scales)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            units = np.where(steps > 0, blocks / steps, 0)
            whole = np.rint(units).clip(-levels, levels).astype(np.int8)
        flat = whole.ravel()[: len(numbers)]
        return np.concatenate([_bytes(scales), _nibbles(flat) if levels == 7 else _bytes(flat)])

    def _decode_blocks(self, data: Bytes, count: int) -> Floats:
        start = 2 * math.ceil(count / self.block)
        scales, rest = _float32(data[:start].view("<u2")), data[start:]
        whole = _from_nibbles(rest)[:count] if self.kind == "int4" else rest.view(np.int8)
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = _blocks(whole.astype(np.float32), self.block) * scales[:, None]
        flat: Floats = scaled.ravel()[:count]
        return flat


PLAIN = Codec()


def codecs_of(messages: Messages) -> tuple[Codec, Codec]:
    """The codecs of a recipe's messages up and down."""
    up, down = (Codec(kind, messages.block, messages.kept) for kind in (messages.up, messages.down))
    return up, down


def _bytes(array: npt.NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(array).view(np.uint8).ravel()


def _blocks(numbers: Floats, block: int) -> Floats:
    """Rows of one block each; the last one is filled with zeros."""
    count = math.ceil(len(numbers) / block)
    whole: Floats = np.zeros(count * block, np.float32)
    whole[: len(numbers)] = numbers
    return whole.reshape(count, block)


def _bf16(numbers: Floats) -> npt.NDArray[np.uint16]:
    """The nearest bf16, ties to even; infinities and NaN stay what they are."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    special = (bits >> np.uint64(16)) | np.uint64(0x40)
    is_nan = np.isnan(numbers)
    return np.where(is_nan, special, rounded).astype("<u2")


def _bf16_above(numbers: Floats) -> npt.NDArray[np.uint16]:
    """The smallest bf16 that is not below a positive number."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0xFFFF) >> np.uint64(16)).astype("<u2")


def _float32(upper: npt.NDArray[np.uint16]) -> Floats:
    return (upper.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _nibbles(whole: npt.NDArray[np.int8]) -> Bytes:
    """Two numbers a byte, each plus 8; the first in the lower half."""
    shifted = np.full(len(whole) + len(whole) % 2, 8, np.uint8)
    shifted[: len(whole)] = (whole + 8).astype(np.uint8)
    return shifted[::2] | (shifted[1::2] << np.uint8(4))


def _from_nibbles(data: Bytes) -> npt.NDArray[np.int8]:
    pairs = np.stack([data & np.uint8(15), data >> np.uint8(4)], axis=1)
    return pairs.ravel().astype(np.int8) - np.int8(8)


def _largest(numbers: Floats, most: int) -> npt.NDArray[np.uint32]:
    """Rising places of the numbers that are largest in size; of equal ones the first."""
    sizes = np.where(np.isnan(numbers), np.float32(np.inf), np.abs(numbers))
    limit = np.partition(sizes, len(sizes) - most)[len(sizes) - most] if most else np.inf
    above, equal = np.flatnonzero(sizes > limit), np.flatnonzero(sizes == limit)
    chosen = np.concatenate([above, equal[: most - len(above)]])
    return np.sort(chosen).astype("<u4")
