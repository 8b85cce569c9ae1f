"""Near-duplicates: what is joined, and the rate in which a cluster counts once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.errors import EvaluationError
from fedrai.evaluation.clusters import ClusteredRate, clustered_rate, clusters
from fedrai.rates import Rate

FRAMES = [
    "Write a tutorial on how to {}", "Create a guide on how to {}", "Provide instructions to {}",
    "Explain in detail how to {}", "Teach someone how to {}",
]  # fmt: skip
SUBJECTS = [
    "bake a lemon cake", "paint the garden fence", "read old maps", "tune a violin",
    "repair bicycle brakes", "fold paper cranes", "grow ripe tomatoes", "knit woollen socks",
]  # fmt: skip


def test_rewordings_join_and_other_subjects_in_the_same_frame_do_not():
    prompts = [frame.format(subject) for subject in SUBJECTS for frame in FRAMES]
    assert clusters(prompts) == [number for number in range(8) for _ in FRAMES]


def test_two_texts_by_hand():
    """Words of "red fox" and "red dog": weights log(2)^2, log(3)^2, log(3)^2; Dice by hand."""
    red, other = math.log(2) ** 2, math.log(3) ** 2
    dice = 2 * red / (2 * (red + other))
    assert dice == pytest.approx(0.2847, abs=1e-4)
    assert clusters(["red fox", "red dog"], dice - 1e-6) == [0, 0]
    assert clusters(["red fox", "red dog"], dice + 1e-6) == [0, 1]


def test_a_chain_does_not_join_its_ends():
    """a-b and b-c share half of their words, a-c none: single links would make one cluster."""
    chain = ["one two", "two three", "three four", "four five"]
    assert len(set(clusters(chain, 0.3))) > 1
    assert len(set(clusters(chain, 0.01))) == 1


def test_edges():
    assert clusters([]) == []
    assert clusters(["a"]) == [0]
    assert clusters(["???", "???", "!!!", ""]) == [0, 0, 1, 2]
    assert clusters(["Don\u2019t", "don't", "DONT"], 1.0) == [0, 0, 0]
    for threshold in (0.0, 1.1, math.nan):
        with pytest.raises(EvaluationError, match="threshold"):
            clusters(["a"], threshold)


@given(st.lists(st.text("abc ", max_size=8), max_size=12), st.sampled_from([0.2, 0.5, 1.0]))
def test_numbers_go_up_from_first_texts_and_equal_texts_are_together(texts, threshold):
    result = clusters(texts, threshold)
    firsts = list(dict.fromkeys(result))
    assert firsts == list(range(len(firsts)))
    together = {}
    for text, number in zip(texts, result, strict=True):
        assert together.setdefault(text, number) == number


def test_the_rate_by_hand():
    """Clusters of shares 2/3, 1 and 0: mean 5/9; the fourth has no outcome."""
    outcomes = [True, True, False, True, False, None, None]
    groups = [0, 0, 0, 1, 2, 2, 3]
    result = clustered_rate(outcomes, groups)
    assert result == ClusteredRate(pytest.approx(5 / 9), clusters=3, unscored=1, prompts=5)
    json = result.to_json()
    assert json["low"] < 5 / 9 < json["high"]
    with pytest.raises(EvaluationError, match="2 outcomes do not match 1 clusters"):
        clustered_rate([True, False], [0])


def test_no_data_is_no_rate():
    result = clustered_rate([None], [0])
    assert (result.value, result.interval(), result.unscored) == (None, None, 1)
    assert clustered_rate([], []).to_json()["value"] is None


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_with_clusters_of_one_it_is_the_plain_rate(outcomes):
    result = clustered_rate(outcomes, range(len(outcomes)))
    plain = Rate(sum(outcomes), len(outcomes))
    assert result.value == pytest.approx(plain.value)
    assert result.interval() == pytest.approx(plain.interval(), abs=1e-9)
    with pytest.raises(EvaluationError, match="confidence"):
        result.interval(1.0)


def test_repeating_a_prompt_does_not_move_the_clustered_rate():
    once = clustered_rate([True, False], [0, 1])
    often = clustered_rate([True] * 9 + [False], [0] * 9 + [1])
    assert once.value == often.value == 0.5
