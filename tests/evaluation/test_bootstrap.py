"""Arms and seeds: figures by hand, a plain loop as the oracle, and what the intervals cover."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrai.errors import EvaluationError
from fedrai.evaluation.bootstrap import (
    Resampling,
    both_sides,
    both_sides_difference,
    paired_difference,
    seeds_mean,
)

OUTCOME = st.sampled_from([True, False, None])


@st.composite
def tables(draw, arms=2):
    seeds, prompts = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    row = st.lists(OUTCOME, min_size=prompts, max_size=prompts)
    return [draw(st.lists(row, min_size=seeds, max_size=seeds)) for _ in range(arms)]


def rates_by_seed(table):
    """The rate of each seed that has one."""
    scored = [[o for o in row if o is not None] for row in table]
    return [fmean(row) for row in scored if row]


# --- one arm --------------------------------------------------------------------------------------


def test_seeds_count_alike_however_many_of_their_prompts_are_scored():
    result = seeds_mean([[True, True, True, True], [False, None, None, None]])
    assert result.value == 0.5  # pooled it would be 4/5
    assert (result.seeds, result.prompts, result.unscored) == (2, 4, 3)


def test_a_seed_without_scores_is_left_out():
    result = seeds_mean([[True, False], [None, None]])
    assert (result.value, result.seeds, result.prompts, result.unscored) == (0.5, 1, 2, 0)
    assert seeds_mean([[None, None]]) is None
    assert seeds_mean([[], []]) is None


@given(tables(arms=1))
@settings(max_examples=40)
def test_value_is_the_mean_of_the_seeds(arms):
    result, rates = seeds_mean(arms[0], Resampling(resamples=20)), rates_by_seed(arms[0])
    assert (result is None) == (not rates)
    if result is not None:
        assert result.value == pytest.approx(fmean(rates))
        assert -1e-9 <= result.low <= result.high <= 1 + 1e-9


def test_interval_equals_that_of_a_plain_loop():
    """The same draws, row by row and without matrices."""
    rng = np.random.default_rng(5)
    table = [[[True, False, None][k] for k in rng.integers(3, size=11)] for _ in range(3)]
    draw, means = np.random.default_rng(9), []
    for _ in range(400):
        rows, columns = draw.integers(3, size=3), draw.integers(11, size=11)
        means.append(fmean(rates_by_seed([[table[r][c] for c in columns] for r in rows])))
    result = seeds_mean(table, Resampling(resamples=400, seed=9))
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_runs_that_differ_widen_the_interval():
    """All prompts agree within a seed: pooling 200 rows would give half a width of 7 points."""
    result = seeds_mean([[True] * 100, [False] * 100])
    assert (result.value, result.low, result.high) == (0.5, 0.0, 1.0)


def test_one_seed_has_the_interval_of_its_prompts():
    result = seeds_mean([[number % 4 == 0 for number in range(800)]])
    half = 1.96 * (0.25 * 0.75 / 800) ** 0.5
    assert (result.low, result.high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.0035)


def test_the_seed_decides_the_draws():
    table = [[number % 3 == 0 for number in range(50)]] * 2
    assert seeds_mean(table, Resampling(seed=1)) == seeds_mean(table, Resampling(seed=1))
    assert seeds_mean(table, Resampling(seed=1)) != seeds_mean(table, Resampling(seed=2))


def test_less_confidence_is_a_narrower_interval():
    table = [[number % 3 == 0 for number in range(200)]]
    wide, narrow = seeds_mean(table), seeds_mean(table, Resampling(confidence=0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert narrow.high - narrow.low == pytest.approx(2 * 0.6745 * (2 / 9 / 200) ** 0.5, abs=0.011)


# --- two arms -------------------------------------------------------------------------------------


def test_differences_are_taken_prompt_by_prompt():
    """Each arm's rate is uncertain; their difference is not."""
    ours = [[number % 2 == 0 for number in range(40)]] * 2
    estimate = paired_difference(ours, ours)
    assert (estimate.low, estimate.value, estimate.high) == (0, 0, 0)


def test_a_clear_difference_has_a_direction():
    ours, theirs = [[True] * 20] * 3, [[False] * 20] * 3
    assert paired_difference(ours, theirs).low == 1
    assert paired_difference(theirs, ours).high == -1


def test_a_difference_leaves_out_what_either_arm_has_not_scored():
    ours = [[True] * 6 + [None], [True, False] * 3 + [True]]
    theirs = [[False] * 7, [True, False] * 3 + [None]]
    estimate = paired_difference(ours, theirs)
    assert estimate.value == pytest.approx(0.5)  # mean of 1 and 0
    assert estimate.unscored == 2


@given(tables())
@settings(max_examples=40)
def test_swapping_the_arms_mirrors_the_interval(arms):
    ours, theirs = arms
    few = Resampling(resamples=50)
    original, back = paired_difference(ours, theirs, few), paired_difference(theirs, ours, few)
    assert (original is None) == (back is None)
    if original is not None:
        assert (back.value, back.low, back.high) == pytest.approx(
            (-original.value, -original.high, -original.low)
        )


def test_the_interval_of_one_seed_covers_the_draw_of_prompts():
    one = paired_difference([[True, True, True, False]], [[False, True, False, True]])
    assert one.low < 0 < one.high


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """300 experiments of 5 seeds and 60 prompts; no arm is better. 95 % would be 285."""
    rng, covered = np.random.default_rng(3), 0
    for _ in range(300):
        hard = rng.normal(size=60)  # prompts differ
        arms = [rng.normal(0, 0.3, (5, 1)) + hard + rng.normal(size=(5, 60)) > 0 for _ in range(2)]
        tables = (arm.tolist() for arm in arms)
        estimate = paired_difference(*tables, Resampling(resamples=200))
        covered += estimate.low <= 0 <= estimate.high
    assert 270 <= covered <= 298


# --- both sides -----------------------------------------------------------------------------------


def test_both_sides_is_the_mean_of_each_runs_harmonic_mean():
    refused = [[True, True, True, False], [True] * 4]  # 3/4 and 1
    answered = [[True, False], [True, True]]  # 1/2 and 1
    result = both_sides(refused, answered)
    assert result.value == pytest.approx((2 * 0.75 * 0.5 / 1.25 + 1) / 2)
    assert (result.seeds, result.prompts) == (2, 6)


@pytest.mark.parametrize("refuses", [True, False])
def test_refusing_all_or_nothing_scores_nothing(refuses):
    result = both_sides([[refuses] * 9] * 2, [[not refuses] * 5] * 2)
    assert (result.value, result.low, result.high) == (0, 0, 0)


def test_both_sides_of_a_suite_without_scores_is_no_data():
    assert both_sides([[True]], [[None]]) is None
    result = both_sides([[True], [True]], [[None], [True]])
    assert (result.value, result.seeds) == (1.0, 1)


def test_seeds_are_drawn_once_for_both_suites():
    """One run only refuses, one only answers; whichever is drawn, the score is nothing."""
    result = both_sides([[True] * 5, [False] * 5], [[False] * 5, [True] * 5])
    assert (result.value, result.high) == (0, 0)


def test_difference_of_both_sides():
    good = ([[True] * 6] * 2, [[True] * 4] * 2)
    half = ([[True] * 6] * 2, [[True, True, False, False]] * 2)
    result = both_sides_difference(good, half)
    assert result.value == pytest.approx(1 - 2 / 3)
    assert result.low <= result.value <= result.high
    same = both_sides_difference(half, half)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_difference_of_both_sides_counts_prompts_scored_in_both_arms():
    ours, theirs = ([[True, None]], [[True, True]]), ([[True, False]], [[True, None]])
    result = both_sides_difference(ours, theirs)
    assert (result.value, result.prompts, result.unscored) == (0.0, 2, 2)


# --- what cannot be compared ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seeds_mean([]), "0 rows"),
        (lambda: seeds_mean([[True], [True, False]]), r"lengths \[1, 2\]"),
        (lambda: paired_difference([[True]], [[True], [True]]), "1 x 1 and 2 x 1"),
        (lambda: paired_difference([[True]], [[True, True]]), "1 x 1 and 1 x 2"),
        (lambda: both_sides([[True]], [[True], [True]]), "differ in seeds"),
        (lambda: seeds_mean([[True]], Resampling(confidence=95)), "confidence=95"),
        (lambda: seeds_mean([[True]], Resampling(resamples=0)), "resamples=0"),
    ],
)
def test_tables_that_do_not_match_are_errors(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
