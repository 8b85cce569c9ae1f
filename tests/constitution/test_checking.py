"""What a constitution has and lacks, counted by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.constitution import Constitution, Demonstration, Principle, load
from fedrai.constitution.checking import (
    LONGEST_DEMONSTRATION,
    LONGEST_REQUEST,
    check,
    estimated_tokens,
    similarity,
)
from fedrai.filter.ledger import CATEGORIES


def words(*names: str) -> str:
    return " ".join(names)


def principle(id_: str, critique: str, revision: str, *categories: str) -> Principle:
    return Principle(id_, "title", "look for", critique, revision, categories)


def shown(id_: str, revision: str, request: str = "q") -> Demonstration:
    return Demonstration(id_, request, "a", "ask", "c", "ask again", revision)


def test_tokens_are_words_times_one_and_three_tenths():
    assert [estimated_tokens(t) for t in ("", "one", "one two  three\nfour", "w " * 10)] == [
        0, 2, 6, 13,
    ]  # fmt: skip


def test_similarity_is_the_jaccard_index_of_content_words():
    assert similarity("The cat sat.", "A cat SAT on it") == 1  # cat, sat
    assert similarity("red green blue", "blue green yellow") == 0.5  # two of four
    assert similarity("red", "blue") == 0
    assert similarity("the of", "a") == 0  # no content word at all


@given(st.text(), st.text())
def test_similarity_is_symmetric_and_bounded(one, other):
    assert similarity(one, other) == similarity(other, one)
    assert 0 <= similarity(one, other) <= 1


def test_a_report_counted_by_hand():
    result = check(
        Constitution(
            "n", "3",
            (principle("a", "one two", "one two three", "fraud", "cyber"),
             principle("b", "apple", "pear")),
            (shown("a", "Alpha beta gamma."), shown("a", "Delta."), shown("", "Rest.")),
        )
    )  # fmt: skip
    assert [(e.id, e.categories, e.demonstrations, e.tokens) for e in result.principles] == [
        ("a", ("fraud", "cyber"), 2, 4),  # ceil(3 * 1.3)
        ("b", (), 0, 2),
    ]
    assert result.demonstrations == 3
    # each: q, a, ask, c and a one-word revision 2 each, "ask again" 3; three words make 4
    assert result.demonstration_tokens == 3 * (5 * 2 + 3) + (4 - 2)
    assert set(result.uncovered) == set(CATEGORIES) - {"fraud", "cyber"}
    assert result.warnings == ()


def test_missing_general_principles_and_demonstrations_give_warnings():
    all_but_one = [name for name in CATEGORIES if name != "drugs"]
    result = check(Constitution("n", "1", (principle("a", "x", "y", *all_but_one),)))
    assert result.uncovered == ("drugs",)
    assert result.warnings == (
        "no general principle: requests of drugs, no category get a principle of another category",
        "no demonstrations: a small model needs examples of a critique and a revision",
    )


@pytest.mark.parametrize(("count", "warned"), [(30, False), (31, True)])  # 39 and 40.3 tokens
def test_long_requests_give_a_warning(count, warned):
    long = " ".join(f"w{n}" for n in range(count))
    result = check(
        Constitution("n", "1", (principle("a", "x", long),), (shown("a", "r"), shown("a", "s")))
    )
    assert (f"a: revision_request has about 41 tokens; small models follow up to {LONGEST_REQUEST}"
            " well" in result.warnings) is warned  # fmt: skip
    assert len(result.warnings) == warned


def test_long_demonstrations_give_a_warning():
    short = shown("a", "r", "w " * 260)  # 338 tokens, and 11 of the other turns
    long = shown("a", "s", "w " * 261)  # 340 and 11
    result = check(Constitution("n", "1", (principle("a", "x", "y"),), (short, long)))
    assert result.warnings == (
        f"demonstration 2 has about 351 tokens; keep it within {LONGEST_DEMONSTRATION}",
    )


def test_similar_texts_give_a_warning():
    base = words("red", "green", "blue", "black")
    four_of_five = words("red", "green", "blue", "black", "white")
    half = words("red", "green", "blue", "grey", "pink")  # three of six
    result = check(
        Constitution(
            "n", "1",
            (principle("a", base, "x"), principle("b", four_of_five, "y"),
             principle("c", half, base)),  # the words of another kind of text do not count
            (shown("a", "One fine day I left."), shown("b", "one fine DAY all went well.")),
        )
    )  # fmt: skip
    assert result.warnings == (
        "a and b: 80 % of the words of critique_request are the same",
        "demonstration 1, demonstration 2: the revisions begin with the same 3 words",
    )


def test_the_built_in_constitution_has_no_warning():
    result = check(load("embedded"))
    assert result.warnings == ()
    assert result.uncovered == ()
    assert {e.id: e.demonstrations for e in result.principles if e.demonstrations} == {
        "violence-weapons": 5, "self-harm": 2, "hate-harassment": 3, "privacy": 2, "fraud": 3,
        "cyber": 2, "drugs": 2, "misinformation": 2, "sexual-children": 1, "illegal": 2,
        "answer-the-harmless": 2,
    }  # fmt: skip
    assert result.demonstrations == 26
    assert result.demonstration_tokens < 26 * 190  # three of them in a prompt of 2,048


def test_revisions_of_a_form_may_begin_alike_and_need_two_demonstrations():
    def of(form: str, revision: str) -> Demonstration:
        return replace(shown("a", revision), form=form)

    one, other = "Not this time because of rain.", "Not this time since my cat sleeps."
    base = Constitution("n", "1", (principle("a", "x", "y"),))
    assert check(replace(base, demonstrations=(of("f", one), of("f", other)))).warnings == ()
    assert check(replace(base, demonstrations=(of("f", one), of("g", other)))).warnings == (
        "demonstration 1, demonstration 2: the revisions begin with the same 3 words",
        "form f: one demonstration is not a pattern; write two or three",
        "form g: one demonstration is not a pattern; write two or three",
    )
    assert check(replace(base, demonstrations=(of("", one),))).warnings == (
        "the common form: one demonstration is not a pattern; write two or three",
    )


def test_the_example_of_the_docs_gets_the_warning_of_a_single_demonstration(tmp_path):
    page = (Path(__file__).parents[2] / "docs/constitution.md").read_text(encoding="utf-8")
    (tmp_path / "page.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    assert "the common form: one demonstration is not a pattern; write two or three" in (
        check(load(tmp_path / "page.toml")).warnings
    )
