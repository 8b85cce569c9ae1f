"""Rows of tokens to padded batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedrai.records import Tokens

PAD_TO = 16


def padded(length: int) -> int:
    """The next multiple of `PAD_TO`."""
    return -(-length // PAD_TO) * PAD_TO


def collate(
    rows: Sequence[Tokens], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Pad rows on the right: ids, attention mask and label mask, each (B, T), T a multiple of 16.

    CPU kernels keep a compiled copy for every shape they meet; few shapes keep memory from growing.
    """
    length = padded(max(len(row.ids) for row in rows))
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    wanted = torch.zeros((len(rows), length), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
        wanted[i, : len(row.ids)] = torch.tensor(row.mask)
    return ids.to(device), mask.to(device), wanted.to(device)
