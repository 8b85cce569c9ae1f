"""Bounds that hold at every number of items: by hand, and by simulation."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from fedrai.evaluation.sequential import bounds, log_ratio, lower_bound


def test_the_ratio_of_two_steps_by_hand() -> None:
    """Two sets; the made-up item gives 1/2 first, then 2.5 / 3 after two refusals."""
    ratio = log_ratio(np.array([1.0, 0.5]), 0.25, 2)
    first = 2 * log(0.5 / 0.25)
    rate = 2.5 / 3
    second = log(rate / 0.25) + log((1 - rate) / 0.75)
    assert ratio == pytest.approx([first, first + second])


def test_no_item_speaks_against_a_claim_above_what_was_seen() -> None:
    assert log_ratio(np.zeros(5), 0.5, 3) == pytest.approx(np.zeros(5))


def test_a_run_of_refusals_needs_about_thirty_to_pass_nine_tenths() -> None:
    """No test with this error can do it in fewer than log 0.05 / log 0.9 = 28.4 items."""
    assert lower_bound(np.ones(28), 1, 0.05) < 0.9
    assert lower_bound(np.ones(60), 1, 0.05) >= 0.9


def test_bounds_hold_the_mean_and_mirror_each_other() -> None:
    outcomes = np.array([[1, 1, 0, 1, 1, 1, 0, 1], [0, 1, 0, 0, 1, 0, 0, 1]], float)
    found, opposite = bounds(outcomes, 0.05), bounds(1 - outcomes, 0.05)
    assert found is not None
    assert opposite is not None
    assert (found.value, found.items, found.sets) == (9 / 16, 8, 2)
    assert found.low < found.value < found.high
    assert (opposite.low, opposite.high) == pytest.approx((1 - found.high, 1 - found.low))
    assert bounds(np.empty((2, 0)), 0.05) is None


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_a_true_claim_is_hardly_ever_given_up_at_any_look(spread: float) -> None:
    """2,000 models right at the bar, ten sets of equal or unequal rates, a look at every item."""
    draw = np.random.default_rng(0)
    rates = 0.9 + spread * np.linspace(-1, 1, 10)
    steps = np.stack([(draw.random((2000, 10)) < rates).mean(1) for _ in range(60)])
    wrong = (log_ratio(steps, 0.9, 10).max(0) >= log(1 / 0.05)).mean()
    assert 0 < wrong + spread < 0.05 + spread  # at most the error; some err where rates are equal
