"""Numbers worked out by hand or published, and the properties that any interval must have."""

from fractions import Fraction
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.errors import EvaluationError
from fedrai.evaluation.statistics import (
    cohen_kappa,
    draw_counts,
    mcnemar,
    mcnemar_corrected,
    mcnemar_exact,
    percentile_interval,
)
from fedrai.rates import Rate, rate


@st.composite
def rates(draw):
    scored = draw(st.integers(1, 5000))
    return Rate(draw(st.integers(0, scored)), scored)


@pytest.mark.parametrize(
    ("successes", "scored", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, 857, table I, method 3 (score, no correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # by hand: with z^2 = 3.8415, centre (0.3 + 0.038415) / 1.07683, half width 0.12390
        (15, 50, 0.1910, 0.4375),
        # by hand: at n = 1 the ends are 1 / (1 + z^2) = 0.2065 and 1
        (1, 1, 0.2065, 1.0000),
    ],
)
def test_wilson_published(successes, scored, low, high):
    assert Rate(successes, scored).interval() == pytest.approx((low, high), abs=5e-5)


def test_confidence_of_ninety_per_cent():
    # by hand with z = 1.644854, z^2 = 2.705543: 5 of 10 is 0.5 +- z/2 * sqrt(1/(10 + z^2))
    half = 1.644854 / 2 / (10 + 2.705543) ** 0.5
    assert Rate(5, 10).interval(0.9) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95, float("nan")])
def test_confidence_out_of_range(confidence):
    with pytest.raises(EvaluationError, match="between 0 and 1"):
        Rate(1, 2).interval(confidence)


@given(rates(), st.floats(0.01, 0.999))
def test_interval_holds_the_value_within_zero_and_one(measured, confidence):
    low, high = measured.interval(confidence)
    assert 0 <= low <= measured.value <= high <= 1


@given(rates())
def test_failures_mirror_successes(measured):
    low, high = measured.interval()
    mirrored = Rate(measured.scored - measured.successes, measured.scored).interval()
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(rates())
def test_more_data_narrows_the_interval(measured):
    low, high = measured.interval()
    closer = Rate(10 * measured.successes, 10 * measured.scored).interval()
    assert closer[1] - closer[0] < high - low


def test_format():
    assert Rate(31, 100).format() == "31.0 % [22.8, 40.6]"
    assert str(Rate(31, 100, 7)) == "31.0 % [22.8, 40.6]"
    assert Rate(31, 100).format(0.5) != Rate(31, 100).format()


def test_no_data_is_not_zero():
    empty = Rate(0, 0, unscored=12)
    assert empty.value is None
    assert empty.interval() is None
    assert empty.format() == "no data"
    assert Rate(0, 12).value == 0.0


@pytest.mark.parametrize("counts", [(-1, 3, 0), (0, -1, 0), (0, 3, -1), (4, 3, 0)])
def test_impossible_counts(counts):
    with pytest.raises(EvaluationError, match="successes"):
        Rate(*counts)


def test_unscored_is_in_no_count():
    assert rate([True, None, False, True, None]) == Rate(2, 3, 2)
    assert rate(iter([None])) == Rate(0, 0, 1)
    assert rate([]) == Rate(0, 0, 0)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 / 32),
        (0, 6, 2 / 64),
        (1, 7, 2 * (1 + 8) / 256),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
        (3, 4, 1.0),
    ],
)
def test_mcnemar_by_hand(b, c, p):
    assert mcnemar_exact(b, c) == pytest.approx(p)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_a_symmetric_probability(b, c):
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)
    assert 0 < mcnemar_exact(b, c) <= 1


def test_mcnemar_with_thousands_of_prompts():
    assert mcnemar_exact(2000, 2000) == 1.0
    assert mcnemar_exact(0, 2000) < 1e-300


@pytest.mark.parametrize(("b", "c"), [(-1, 2), (2, -1)])
def test_mcnemar_rejects_negative_counts(b, c):
    with pytest.raises(EvaluationError, match="negative"):
        mcnemar_exact(b, c)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (40, 22, 0.0308),  # (18 - 1)^2 / 62 = 4.6613; 2 (1 - Phi(2.1590))
        (121, 59, 5.45e-6),  # 61^2 / 180 = 20.6722, z = 4.5467
        (25, 25, 1.0),
        (26, 25, 1.0),
        (0, 0, 1.0),
    ],
)
def test_corrected_mcnemar_by_hand(b, c, p):
    assert mcnemar_corrected(b, c) == pytest.approx(p, rel=2e-3)


@given(st.integers(13, 300), st.integers(13, 300))
def test_corrected_is_close_to_exact_with_many_pairs(b, c):
    assert mcnemar_corrected(b, c) == mcnemar_corrected(c, b)
    assert mcnemar_corrected(b, c) == pytest.approx(mcnemar_exact(b, c), abs=0.012)


def test_mcnemar_counts_pairs_that_are_scored_in_both():
    ours = [True, True, True, False, False, None, True]
    theirs = [True, False, False, True, False, True, None]
    result = mcnemar(ours, theirs)
    assert (result.both, result.first, result.second, result.neither) == (1, 2, 1, 1)
    assert (result.unscored, result.p, result.method) == (2, 1.0, "exact")


@pytest.mark.parametrize(("pairs", "method"), [(24, "exact"), (25, "corrected")])
def test_mcnemar_says_which_test_it_is(pairs, method):
    result = mcnemar([True] * pairs, [False] * pairs)
    assert result.method == method
    assert result.to_json()["p"] == pytest.approx(
        {24: 2 / 2**24, 25: 1.587e-6}[pairs],
        rel=2e-3,  # 25: chi-squared 24^2 / 25 = 4.8^2
    )


def test_mcnemar_needs_the_same_prompts():
    with pytest.raises(EvaluationError, match="got 2 and 1"):
        mcnemar([True, False], [True])
    with pytest.raises(EvaluationError, match="negative"):
        mcnemar_corrected(-1, 2)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(2, 20))
def test_answers_that_repeat_themselves_tell_nothing_new(flat, times):
    """Copies of the same answers give the same interval, however many there are."""
    numbers = list(range(len(flat)))
    once, many = rate(flat, numbers), rate(flat * times, numbers * times)
    assert once.prompts == 0
    assert many.prompts == len(flat)
    assert many.interval() == pytest.approx(once.interval())
    assert many.opposite().interval() == pytest.approx(once.opposite().interval())


def test_more_prompts_than_outcomes_are_impossible():
    with pytest.raises(EvaluationError, match="3 prompts do not fit 2 outcomes"):
        Rate(1, 2, 0, 3)
    with pytest.raises(EvaluationError, match="2 outcomes do not match 1 prompts"):
        rate([True, False], [1])


# --- kappa and intervals --------------------------------------------------------------------------


@given(st.integers(2, 3).flatmap(lambda k: st.lists(
    st.lists(st.integers(0, 9), min_size=k, max_size=k), min_size=k, max_size=k)))  # fmt: skip
def test_kappa_follows_its_definition(table: list[list[int]]) -> None:
    """(observed - chance) / (1 - chance), in fractions."""
    total = sum(map(sum, table))
    kappa = float(cohen_kappa(np.array([table]))[0])
    if not total:
        assert isnan(kappa)
        return
    observed = Fraction(sum(table[i][i] for i in range(len(table))), total)
    columns = [sum(column) for column in zip(*table, strict=True)]
    chance = sum(Fraction(sum(row) * columns[i], total**2) for i, row in enumerate(table))
    if chance == 1:
        assert isnan(kappa)
    else:
        assert kappa == pytest.approx(float((observed - chance) / (1 - chance)))


def test_a_resample_draws_as_many_units_as_there_are() -> None:
    counts = draw_counts(7, 500, seed=3)
    assert counts.shape == (500, 7)
    assert set(counts.sum(1)) == {7}
    assert abs(counts.mean() - 1) < 1e-12
    assert np.array_equal(counts, draw_counts(7, 500, seed=3))


def test_a_percentile_interval_by_hand() -> None:
    """Of 0, 1 ... 100 the middle 90 % lies between 5 and 95; nan counts nothing."""
    values = np.array([np.nan, *range(101), np.nan], float)
    assert percentile_interval(values, 0.9) == pytest.approx((5, 95))
