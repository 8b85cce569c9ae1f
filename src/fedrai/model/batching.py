"""Rows of tokens to padded batches, and which rows share one."""

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
    """Cut numbers into what goes through a model at once, in their order.

    Args:
        numbers: of rows; those of like length beside each other need the least padding.
        size: tokens of a row by its number.
        limit: most tokens of a part, unless it has but one row; 0: any number.
        most: most rows of a part; 0: any number.
        padded: whether every row of a part takes as much as its longest.
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


def pad(
    rows: Sequence[Sequence[int]], fill: int, length: int, *, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Rows filled up to one length: ids, and where they are real.

    Args:
        rows: token ids.
        fill: id that stands where a row has none.
        length: of all rows then, T.
        left: whether they are filled up at their beginning.

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

    CPU kernels keep a compiled copy for every shape they meet; few shapes keep memory from growing.
    """
    length = padded_length(max(len(row.ids) for row in rows))
    ids, mask = pad([row.ids for row in rows], pad_id, length)
    labels, _ = pad([row.mask for row in rows], False, length)
    return ids.to(device), mask.to(device), labels.bool().to(device)
