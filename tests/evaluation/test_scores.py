"""Means of scores and disagreements of judges, by hand."""

import math

import pytest

from fedrai.errors import EvaluationError
from fedrai.evaluation.scores import disagreement, mean_json

T, F, N = True, False, None


def test_a_mean_by_hand():
    result = mean_json([1.0, 2.0, 6.0, None], [0, 1, 2, 3])
    assert (result["value"], result["count"], result["unscored"]) == (3.0, 3, 1)
    assert 1 <= result["low"] < 3 < result["high"] <= 6


def test_two_prompts_give_their_three_means():
    """A draw gives 0, 1/2 or 1 with chances 1/4, 1/2, 1/4."""
    result = mean_json([0.0, 1.0], [4, 9])
    assert (result["value"], result["low"], result["high"]) == (0.5, 0, 1)


def test_the_interval_is_that_of_the_normal_where_there_are_many():
    values = [float(n % 7) for n in range(700)]  # mean 3, variance 4
    result = mean_json(values, range(700))
    assert result["low"] == pytest.approx(3 - 1.96 * 2 / math.sqrt(700), abs=0.02)
    assert result["high"] == pytest.approx(3 + 1.96 * 2 / math.sqrt(700), abs=0.02)


def test_answers_to_one_prompt_stay_together():
    alone = mean_json([2.0, 4.0], [5, 5])
    assert (alone["value"], alone["low"], alone["high"], alone["count"]) == (3.0, None, None, 2)
    thrice = mean_json([0.0, 1.0] * 3, [4, 9] * 3)
    assert (thrice["low"], thrice["high"]) == (0, 1)  # as wide as with one answer a prompt


def test_no_scores_are_no_zero():
    result = mean_json([None, None], [0, 1])
    assert result == {"value": None, "low": None, "high": None, "count": 0, "unscored": 2}
    assert mean_json([], [])["value"] is None
    with pytest.raises(EvaluationError, match="2 scores do not match 1 prompts"):
        mean_json([1.0, 2.0], [0])


def test_a_disagreement_by_hand():
    result = disagreement([T, T, T, F, F, F, N], [T, T, F, F, F, T, T])
    counts = [result[k] for k in ("both", "first", "second", "neither", "unscored")]
    assert counts == [2, 1, 1, 2, 1]
    assert result["agree"] == pytest.approx(4 / 6)
    assert result["kappa"] == pytest.approx((4 / 6 - 1 / 2) / (1 - 1 / 2))  # chance: 1/4 + 1/4


def test_kappa_where_chance_alone_agrees_always():
    assert disagreement([T, T], [T, T])["kappa"] is None
    assert disagreement([T, T], [F, F])["kappa"] == 0
    nothing = disagreement([N, T], [T, N])
    assert (nothing["agree"], nothing["kappa"], nothing["unscored"]) == (None, None, 2)
