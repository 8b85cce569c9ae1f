"""How well a guard finds: numbers worked out by hand, and what must hold of any scores."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.errors import EvaluationError
from fedrai.evaluation.detection import Confusion, by_group, detect, scored
from fedrai.rates import Rate

# Six rows: unsafe at .9, .6, .4; safe at .8, .3, .1.
P = [0.9, 0.8, 0.6, 0.4, 0.3, 0.1]
Y = [True, False, True, True, False, False]
TIED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]), st.booleans()), min_size=1
)


def test_counts_and_rates_by_hand():
    counts = detect(P, Y, 0.5).counts
    assert counts == Confusion(tp=2, fp=1, tn=2, fn=1)
    assert (counts.precision, counts.recall) == (Rate(2, 3), Rate(2, 3))
    assert counts.false_positive_rate == Rate(1, 3)
    assert counts.f1 == pytest.approx(2 / 3)


def test_a_row_at_the_threshold_is_flagged():
    assert detect(P, Y, 0.8).counts == Confusion(tp=1, fp=1, tn=2, fn=2)
    assert detect(P, Y, math.nextafter(0.8, 1)).counts == Confusion(tp=1, fp=0, tn=3, fn=2)


def test_areas_by_hand():
    result = detect(P, Y, 0.5)
    # At each unsafe row, recall rises by 1/3 at precision 1/1, 2/3, 3/4.
    assert result.auprc == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    # Of nine pairs, .6 and .4 lie under the safe .8.
    assert result.auroc == pytest.approx(7 / 9)


def test_equal_scores_form_one_step():
    # One unsafe row at .9; one unsafe and one safe tied at .5; one safe at .1.
    result = detect([0.5, 0.9, 0.5, 0.1], [False, True, True, False], 0.5)
    assert result.auprc == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert result.auroc == pytest.approx((2 + 1.5) / 4)


def test_calibration_error_and_brier_by_hand():
    result = detect([0.05, 0.07, 0.95, 1.0, 0.3], [False, True, True, True, False], 0.5)
    # Bin 0: mean .06, truth 1/2. Bin 3: mean .3, truth 0. Bin 9: mean .975, truth 1.
    assert result.calibration_error == pytest.approx((2 * 0.44 + 1 * 0.3 + 2 * 0.025) / 5)
    squares = 0.05**2 + 0.93**2 + 0.05**2 + 0 + 0.3**2
    assert result.brier == pytest.approx(squares / 5)


def test_bins_hold_their_lower_edge():
    # .3 belongs to [.3, .4): with .2 it would share a bin, and the two gaps would cancel.
    assert detect([0.3, 0.2], [True, False], 0.5).calibration_error == pytest.approx(0.45)
    assert detect([0.3, 0.39], [True, False], 0.5).calibration_error == pytest.approx(0.155)


def test_unscored_rows_are_counted_separately_and_fail_closed():
    counts = detect([*P, None, None, None], [*Y, True, False, False], 0.5).counts
    assert counts == Confusion(2, 1, 2, 1, unscored_unsafe=1, unscored_safe=2)
    assert counts.recall == Rate(2, 3, unscored=1)
    assert counts.false_positive_rate == Rate(1, 3, unscored=2)
    assert counts.precision == Rate(2, 3, unscored=3)
    assert counts.fail_closed() == Confusion(tp=3, fp=3, tn=2, fn=1)


def test_no_data_is_none():
    nothing = detect([None, None], [True, False], 0.5)
    assert nothing.counts == Confusion(0, 0, 0, 0, 1, 1)
    assert (nothing.counts.f1, nothing.counts.f1_interval()) == (None, None)
    assert (nothing.auprc, nothing.auroc) == (None, None)
    assert (nothing.calibration_error, nothing.brier) == (None, None)
    assert [r.value for r in (nothing.counts.recall, nothing.counts.precision)] == [None, None]
    one_kind = detect([0.9, 0.2], [True, True], 0.5)
    assert (one_kind.auprc, one_kind.auroc) == (None, None)
    assert one_kind.counts.f1 == pytest.approx(2 / 3)
    assert one_kind.brier == pytest.approx((0.01 + 0.64) / 2)
    assert detect([], [], 0.5).counts == Confusion(0, 0, 0, 0)
    assert detect([0.2, 0.1], [False, False], 0.5).counts.f1 is None


def test_a_guard_that_finds_nothing_has_f1_zero():
    assert detect([0.1, 0.1], [True, False], 0.5).counts.f1 == 0


def test_interval_of_f1():
    counts = Confusion(tp=70, fp=20, tn=880, fn=30)  # F1 = 140 / 190
    low, high = counts.f1_interval()
    assert low < counts.f1 < high
    assert (low, high) == counts.f1_interval()  # seeded
    # The delta method gives a standard error of 0.0347 for these counts.
    assert high - low == pytest.approx(2 * 1.96 * delta_error(counts), rel=0.1)
    narrower = counts.f1_interval(0.5)
    assert low < narrower[0] < narrower[1] < high
    assert Confusion(5, 0, 5, 0).f1_interval() == (1, 1)


def delta_error(counts: Confusion) -> float:
    """Standard error of 2a / (2a + b + d) for multinomial a, b, c, d, to first order."""
    whole = 2 * counts.tp + counts.fp + counts.fn
    slope = [2 * (counts.fp + counts.fn) / whole**2, *[-2 * counts.tp / whole**2] * 2]
    cells = [counts.tp, counts.fp, counts.fn]
    n = counts.tp + counts.fp + counts.tn + counts.fn
    mean = sum(s * c for s, c in zip(slope, cells, strict=True))
    return math.sqrt(sum(s * s * c for s, c in zip(slope, cells, strict=True)) - mean**2 / n)


def test_the_interval_is_that_of_resampled_rows():
    counts = Confusion(tp=12, fp=6, tn=40, fn=8)
    rows = np.repeat([0, 1, 2, 3], [12, 6, 40, 8])
    rng = np.random.default_rng(3)
    drawn = rows[rng.integers(0, len(rows), (20_000, len(rows)))]
    tp, fp, fn = [(drawn == cell).sum(1) for cell in (0, 1, 3)]
    expected = np.quantile(2 * tp / (2 * tp + fp + fn), [0.025, 0.975])
    assert counts.f1_interval(resamples=20_000) == pytest.approx(expected, abs=0.01)


def test_groups_are_measured_by_themselves():
    result = by_group([*P, None], [*Y, True], ["b", "b", "a", "a", "b", "b", "c"], 0.5)
    assert list(result) == ["b", "a", "c"]
    assert result["b"].counts == Confusion(tp=1, fp=1, tn=2, fn=0)
    assert result["a"].counts == Confusion(tp=1, fp=0, tn=0, fn=1)
    assert result["c"].counts == Confusion(0, 0, 0, 0, unscored_unsafe=1)


def test_json_has_nulls_for_no_data():
    body = json.loads(json.dumps(detect([None, 0.9], [True, True], 0.5).to_json()))
    assert (body["tp"], body["unscored_unsafe"], body["f1"], body["auprc"]) == (1, 1, 1.0, None)
    assert body["recall"]["low"] == pytest.approx(0.2065, abs=1e-4)
    assert body["false_positive_rate"]["value"] is None
    assert body["fail_closed"]["tp"] == 2


@pytest.mark.parametrize("bad", [1.1, -0.1, math.nan])
def test_values_that_are_no_probabilities_are_errors(bad):
    with pytest.raises(EvaluationError, match="between 0 and 1"):
        detect([bad], [True], 0.5)
    with pytest.raises(EvaluationError, match="2 probabilities do not match 1 labels"):
        detect([0.1, 0.2], [True], 0.5)


@given(TIED)
def test_auroc_counts_pairs(rows):
    p, y = zip(*rows, strict=True)
    unsafe = [a for a, truth in rows if truth]
    safe = [a for a, truth in rows if not truth]
    result = detect(p, y, 0.5).auroc
    if not unsafe or not safe:
        assert result is None
        return
    won = sum((a > b) + (a == b) / 2 for a, b in itertools.product(unsafe, safe))
    assert result == pytest.approx(won / (len(unsafe) * len(safe)))


@given(TIED)
def test_auprc_is_the_step_sum_over_thresholds(rows):
    p, y = zip(*rows, strict=True)
    area, before = 0.0, 0.0
    for threshold in sorted(set(p), reverse=True):
        counts = detect(p, y, threshold).counts
        if counts.recall.value is not None:
            area += (counts.recall.value - before) * (counts.precision.value or 0)
            before = counts.recall.value
    result = detect(p, y, 0.5).auprc
    assert result is None if len(set(y)) == 1 else result == pytest.approx(area)


@given(TIED, st.randoms())
def test_neither_order_nor_a_monotone_change_of_scores_matters(rows, random):
    p, y = zip(*rows, strict=True)
    mixed = list(rows)
    random.shuffle(mixed)
    q, z = zip(*mixed, strict=True)
    one, other = detect(p, y, 0.5), detect([x**2 for x in q], z, 0.25)
    assert one.counts == other.counts
    assert (one.auprc, one.auroc) == (pytest.approx(other.auprc), pytest.approx(other.auroc))


def test_perfect_and_random_scores():
    rng = np.random.default_rng(0)
    labels = rng.random(4000) < 0.2
    perfect = detect((0.5 + 0.5 * labels).tolist(), labels.tolist(), 0.6)
    assert (perfect.auprc, perfect.auroc, perfect.counts.f1) == (1, 1, 1)
    drawn = detect(rng.random(4000).tolist(), labels.tolist(), 0.5)
    assert drawn.auprc == pytest.approx(labels.mean(), abs=0.03)
    assert drawn.auroc == pytest.approx(0.5, abs=0.03)
    same = detect([0.2] * 4000, labels.tolist(), 0.5)
    assert same.auroc == 0.5
    assert same.auprc == pytest.approx(labels.mean())
    assert same.calibration_error == pytest.approx(abs(0.2 - labels.mean()))


def test_scored_keeps_the_order():
    p, y = scored([0.2, None, 0.1], [True, False, False])
    assert (p.tolist(), y.tolist()) == ([0.2, 0.1], [True, False])
