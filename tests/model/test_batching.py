"""Rows that go through a model at once: cut within limits, padded to one length."""

import torch

from fedrai.model.batching import cut, pad


def test_a_part_holds_what_its_longest_row_allows_for_all() -> None:
    sizes = [16, 16, 32, 64, 16]
    assert list(cut(range(5), sizes.__getitem__, 64)) == [[0, 1], [2], [3], [4]]
    assert list(cut([0, 1, 4, 2, 3], sizes.__getitem__, 64)) == [[0, 1, 4], [2], [3]]
    assert list(cut(range(5), sizes.__getitem__, 64, padded=False)) == [[0, 1, 2], [3], [4]]


def test_limits_of_rows_and_none_at_all() -> None:
    assert list(cut(range(5), lambda _: 99, most=2)) == [[0, 1], [2, 3], [4]]
    assert list(cut(range(3), lambda _: 99)) == [[0, 1, 2]]
    assert list(cut(range(2), lambda _: 99, 10)) == [[0], [1]]  # one alone, however long
    assert list(cut([], lambda _: 99)) == []


def test_rows_are_filled_up_at_either_end() -> None:
    ids, mask = pad([(5, 6), (7,)], 9, 3)
    assert (ids.tolist(), mask.tolist()) == ([[5, 6, 9], [7, 9, 9]], [[1, 1, 0], [1, 0, 0]])
    ids, mask = pad([(5, 6), ()], 9, 3, left=True)
    assert (ids.tolist(), mask.tolist()) == ([[9, 5, 6], [9, 9, 9]], [[0, 1, 1], [0, 0, 0]])
    assert ids.dtype == mask.dtype == torch.int64
