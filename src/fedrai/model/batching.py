"""Rows of tokens to padded batches, and which rows share a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from fedrai.records import Tokens

PAD_TO = 16


def padded_length(length: int) -> int:
    """The next multiple of `PAD_TO`."""
    return -(-length // PAD_TO) * PAD_TO


def cut(
    numbers: Iterable[int],
    size: Callable[[int], int],
    limit: int = 0,
    *,
    most: int = 0,
    padded: bool = True,
) -> Iterator[list[int]]:
    """Cut numbers of rows into batches, in their order.

    Args:
        numbers: numbers of rows; with rows of similar length next to each other, padding is least.
        size: tokens of a row by its number.
        limit: most tokens of a batch that has more than one row; 0: no limit.
        most: most rows of a batch; 0: no limit.
        padded: whether each row of a batch takes the space of the longest.
    """
    part: list[int] = []
    longest = total = 0
    for number in numbers:
        longest, total = max(longest, size(number)), total + size(number)
        full = 0 < most <= len(part)
        if part and (full or 0 < limit < ((len(part) + 1) * longest if padded else total)):
            yield part
            part, longest, total = [], size(number), size(number)
        part.append(number)
    if part:
        yield part


def by_length(
    numbers: Iterable[int], size: Callable[[int], int], limit: int = 0, *, most: int = 0
) -> Iterator[list[int]]:
    """Cut numbers of rows into batches, the shortest rows first; see `cut`."""
    return cut(sorted(numbers, key=size), size, limit, most=most)


def pad(
    rows: Sequence[Sequence[int]], fill: int, length: int, *, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Pad rows to one length: ids, and a mask that is 1 at real tokens.

    Args:
        rows: token ids.
        fill: id of the padding.
        length: length of all rows after padding, T.
        left: whether the padding comes first.

    Returns:
        Both (B, T), int64, on the CPU.
    """
    ids = torch.full((len(rows), length), fill)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        start = length - len(row) if left else 0
        ids[i, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, start : start + len(row)] = 1
    return ids, mask


def collate(
    rows: Sequence[Tokens], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Pad rows on the right: ids, attention mask and label mask, each (B, T), T a multiple of 16.

    CPU kernels keep a compiled copy for each shape, so few shapes keep memory from growing.
    """
    length = padded_length(max(len(row.ids) for row in rows))
    ids, mask = pad([row.ids for row in rows], pad_id, length)
    labels, _ = pad([row.mask for row in rows], False, length)
    return ids.to(device), mask.to(device), labels.bool().to(device)
