"""ROUGE-L: the examples of its paper, the definition by trying all subsequences, edges."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.evaluation.rouge import longest_common, rouge_l

WORDS = st.lists(st.sampled_from("abc"), max_size=6)


@pytest.mark.parametrize(
    ("answer", "shared"),
    [("police kill the gunman", 3), ("the gunman kill police", 2), ("the gunman police killed", 2)],
)
def test_the_examples_of_the_paper(answer, shared):
    assert rouge_l(answer, "police killed the gunman") == pytest.approx(shared / 4)


def test_f_by_hand():
    # four of five words are shared in order: precision 4/5, recall 4/8
    result = rouge_l("A cat sat here quietly.", "a cat SAT, and then it went quietly")
    assert result == pytest.approx(2 * (4 / 5) * (4 / 8) / (4 / 5 + 4 / 8))


def test_order_counts_and_case_and_marks_do_not():
    assert rouge_l("one, TWO (three)!", "One two-three") == 1
    assert rouge_l("three two one", "one two three") == pytest.approx(1 / 3)
    assert rouge_l("Größe_1", "größe 1") == 1


def test_an_answer_without_words_scores_nothing_and_a_reference_without_is_no_measure():
    assert rouge_l("", "one") == rouge_l("?!", "one") == 0
    assert rouge_l("one", "...") is None
    assert rouge_l("", "") is None


@given(WORDS, WORDS)
def test_longest_common_subsequence_is_the_longest_of_all(one, other):
    def subsequences(words):
        return {c for n in range(len(words) + 1) for c in combinations(words, n)}

    longest = max(map(len, subsequences(one) & subsequences(other)))
    assert longest_common(one, other) == longest_common(other, one) == longest
