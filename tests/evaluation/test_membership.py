"""Membership inference by values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedrai.errors import EvaluationError
from fedrai.evaluation.membership import Membership, membership


def attacked(
    members: list[float], others: list[float], start: tuple[float, float] = (3.0, 3.0)
) -> Membership:
    return membership(
        {"model": members, "start": [start[0]] * len(members)},
        {"model": others, "start": [start[1]] * len(others)},
    )


def test_equal_losses_tell_nothing() -> None:
    result = attacked([1.0] * 30, [1.0] * 20)
    assert (result.members, result.others) == (30, 20)
    for attack in result.attacks.values():
        assert (attack.auroc.value, attack.auroc.low, attack.auroc.high) == (0.5, 0.5, 0.5)
        assert attack.found.value == 0


def test_lower_losses_of_members_tell_all() -> None:
    loss = attacked([0.5] * 20, [1.0] * 20).attacks["loss"]
    assert loss.auroc.value == loss.auroc.low == 1
    assert loss.found.value == 1


def test_pairs_and_members_are_counted() -> None:
    """Others at 1 to 100. A member at 0.5 is above all, one at 50.5 above the 50 with 51 to 100.

    One of 100 may be a false positive, the one at 1: the threshold is the second lowest loss, 2.
    """
    members, others = [0.5] * 10 + [50.5] * 10, [float(n) for n in range(1, 101)]
    loss = attacked(members, others).attacks["loss"]
    assert loss.auroc.value == pytest.approx((1 + 0.5) / 2)
    assert loss.found.value == 0.5
    assert loss.auroc.low < loss.auroc.value < loss.auroc.high


def test_the_ratio_takes_out_how_hard_rows_are() -> None:
    """Members began at 4 and others at 2: both fell by 1, so the ratio tells nothing."""
    result = attacked([3.0] * 20, [1.0] * 20, start=(4.0, 2.0))
    assert result.attacks["loss"].auroc.value == 0
    assert result.attacks["ratio"].auroc.value == 0.5


def test_the_interval_holds_one_half_where_nothing_was_learned() -> None:
    """In about 95 of 100 draws; the losses of both sides are from one distribution."""
    draws = np.random.default_rng(4)
    held = 0
    for _ in range(20):
        figure = attacked(*draws.normal(size=(2, 60)).tolist()).attacks["loss"].auroc
        held += figure.low <= 0.5 <= figure.high
    assert held >= 16


def test_too_few_rows_are_an_error() -> None:
    with pytest.raises(EvaluationError, match="got 19 that were trained on and 50 others"):
        attacked([1.0] * 19, [1.0] * 50)
