"""The macro mean: by hand, against the exact distribution of a tiny case, and paired."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from fedrai.errors import EvaluationError
from fedrai.evaluation.bootstrap import Resampling
from fedrai.evaluation.macro import macro_difference, macro_mean

MANY = 20_000


def test_each_set_counts_once_however_large_it_is() -> None:
    large, small = [[1.0] * 90 + [0.0] * 10], [[1.0, 0.0, None]]
    mean = macro_mean([large, small])
    assert mean is not None
    assert mean.value == pytest.approx((0.9 + 0.5) / 2)  # pooled it would be 91 of 102
    assert (mean.sets, mean.seeds, mean.items, mean.unscored) == (2, 1, 102, 1)


def test_value_is_the_mean_over_seeds_of_each_seeds_macro_mean() -> None:
    first = [[1.0, 1.0], [0.0, None]]  # 1; 0
    second = [[0.0, 1.0], [None, None]]  # 1/2; this seed has none
    mean = macro_mean([first, second])
    assert mean is not None
    assert mean.value == pytest.approx(((1 + 0.5) / 2 + 0) / 2)
    assert (mean.seeds, mean.items, mean.unscored) == (2, 4, 3)


@pytest.mark.parametrize("confidence", [0.9, 0.6, 0.3])
def test_the_interval_is_that_of_both_stages_exactly(confidence: float) -> None:
    """Sets A = (1, 0) and B = (1, 1): a draw of A has the mean 0, 1/2, 1/2 or 1, one of B 1."""
    draws = [0.0, 0.5, 0.5, 1.0] + [1.0] * 4  # of a set and of its items, all equally likely
    means = sorted((a + b) / 2 for a, b in product(draws, repeat=2))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    mean = macro_mean([[[1.0, 0.0]], [[1.0, 1.0]]], Resampling(confidence, MANY, seed=3))
    assert mean is not None
    assert (mean.low, mean.high) == (low, high)
    assert mean.value == 0.75


def test_items_are_drawn_anew_each_time_that_a_set_is_drawn() -> None:
    """One set, drawn once, and its two items: 0, 1/2, 1/2, 1; each end has a quarter."""
    mean = macro_mean([[[1.0, 0.0]]], Resampling(0.4, MANY, seed=1))
    assert mean is not None
    assert (mean.low, mean.high) == (0.5, 0.5)
    wide = macro_mean([[[1.0, 0.0]]], Resampling(0.6, MANY, seed=1))
    assert wide is not None
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_sets_that_agree_within_and_differ_between_leave_a_wide_interval() -> None:
    """Items alone would give no spread at all: each set is all alike."""
    mean = macro_mean([[[1.0] * 50], [[0.0] * 50], [[1.0] * 50], [[0.0] * 50]])
    assert mean is not None
    assert (mean.value, mean.low, mean.high) == (0.5, 0.0, 1.0)


def test_all_alike_has_wilsons_interval() -> None:
    mean = macro_mean([[[1.0, 1.0]], [[1.0, 1.0]]])
    assert mean is not None
    z = 1.959964
    assert (mean.value, mean.high) == (1.0, 1.0)
    assert mean.low == pytest.approx(4 / (4 + z * z), abs=1e-6)


def test_nothing_scored_is_no_data_and_an_empty_set_is_left_out() -> None:
    assert macro_mean([]) is None
    assert macro_mean([[[None, None]]]) is None
    mean = macro_mean([[[None]], [[1.0, 0.0]]])
    assert mean is not None
    assert (mean.value, mean.sets, mean.unscored) == (0.5, 1, 0)


def test_difference_is_paired_by_set_and_item() -> None:
    ours = [[[1.0, 1.0, 0.0]], [[1.0, None]]]
    theirs = [[[0.0, 1.0, 0.0]], [[0.0, 1.0]]]
    difference = macro_difference(ours, theirs)
    assert difference is not None
    assert difference.value == pytest.approx((1 / 3 + 1) / 2)
    assert (difference.items, difference.unscored) == (4, 1)
    equal = macro_difference(ours[:1], ours[:1])
    assert equal is not None
    assert (equal.value, equal.low, equal.high) == (0.0, 0.0, 0.0)


def test_tables_that_do_not_fit_are_errors() -> None:
    with pytest.raises(EvaluationError, match="sets differ in seeds"):
        macro_mean([[[1.0]], [[1.0], [0.0]]])
    with pytest.raises(EvaluationError, match="the same sets, got 1 and 2"):
        macro_difference([[[1.0]]], [[[1.0]], [[1.0]]])
